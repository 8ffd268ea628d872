"""What lies in a run folder: its files, who may write them, and what they say."""
