"""A table of runs as one command."""
