"""What an entry point hands to the training loop."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.contracts import Distiller, Loader, TeacherSource


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a training is made of.

    evaluations: loaders by name; 'test' is always there, 'val' with data.val_split. still: modules of the student that
    stay in eval mode. description: what the run's files say of its network (pipeline/run_folder/description.py).
    """

    student: nn.Module
    distiller: Distiller
    teacher: TeacherSource
    train: Loader
    evaluations: dict[str, Loader]
    autocast: Callable[[], AbstractContextManager[object]]
    still: tuple[nn.Module, ...] = ()
    description: dict[str, Any] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """The description as an entry of a file; {} where there is none."""
        return {} if self.description is None else {"description": self.description}
