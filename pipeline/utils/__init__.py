"""Helpers that import nothing of the project: files, YAML, names, mixing."""
