"""Where the teacher's outputs come from. A source is made by its builder from a frozen network."""

from collections.abc import Callable

from pipeline.contracts import TeacherSource
from pipeline.registry import Registry

TEACHERS: Registry[Callable[..., TeacherSource]] = Registry("teacher source", __name__)
