"""The types that cross borders between the parts. Imports torch only."""

from pipeline.contracts.batch import Batch, BatchInfo, Draft, Mix, Stream
from pipeline.contracts.interfaces import (
    Distiller,
    FirstStage,
    InputError,
    Loader,
    ModelOutput,
    NotWritten,
    Setting,
    Shapes,
    Signal,
    TeacherSource,
    View,
    unwritten,
)

__all__ = [
    "Batch",
    "BatchInfo",
    "Distiller",
    "Draft",
    "FirstStage",
    "InputError",
    "Loader",
    "Mix",
    "ModelOutput",
    "NotWritten",
    "Setting",
    "Shapes",
    "Signal",
    "Stream",
    "TeacherSource",
    "View",
    "unwritten",
]
