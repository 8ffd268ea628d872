"""How the processes of a run meet, and how they end."""
