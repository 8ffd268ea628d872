"""`dali`: the loader is registered as this package is imported."""

from pipeline.loaders.dali import loader as loader
