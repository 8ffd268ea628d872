"""`ffcv`: the loader is registered as this package is imported."""

from pipeline.loaders.ffcv import loader as loader
