"""Where the teacher's outputs come from. A source is made by its builder from a frozen network."""

from typing import Any

from pipeline.registry import Registry

TEACHERS: Registry[Any] = Registry("teacher source", __name__)  # classes that make a contracts.TeacherSource
