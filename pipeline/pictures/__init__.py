"""What pipeline/visualize.py draws, one picture per file. Of the entry points: it may import every other part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.registry import Registry


class Nothing(Exception):
    """A picture has nothing to show for these runs; the message says why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """title and about: heading and text of the report; draw: material (material.py) -> a matplotlib Figure, which
    raises Nothing; order: place in the report."""

    title: str
    about: str
    draw: Callable[..., Any]
    order: int


PICTURES: Registry[Picture] = Registry("picture", "pipeline.pictures")
