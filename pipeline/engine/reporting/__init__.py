"""What a training says: on the terminal, to trackers, of images that cannot be read."""
