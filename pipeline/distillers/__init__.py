"""Methods, one per file: a pure function and a thin class on top."""

from pipeline.contracts import Distiller
from pipeline.registry import Registry

DISTILLERS: Registry[type[Distiller]] = Registry("method", __name__)
