"""What several methods share; no module of it registers a method."""
