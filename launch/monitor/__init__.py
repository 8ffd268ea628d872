"""What every run does, as rows."""
