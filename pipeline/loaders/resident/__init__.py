"""`resident`: the loader is registered as this package is imported."""

from pipeline.loaders.resident import loader as loader
