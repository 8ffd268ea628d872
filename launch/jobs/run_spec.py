"""What shall run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The words of an entry point (a key of ENTRIES), and the folder that it writes to.

    name: what people call it; marks: patterns of the files that show how far it is, for what runs in a job. Of a sweep:
    config: the TrainConfig that the words give; waits: folder of the run or cache that must be done before; helper: a
    teacher or a cache, which is there for others.
    """

    entry: str = "train"
    words: tuple[str, ...]
    folder: Path
    name: str = ""
    marks: tuple[str, ...] = ()
    config: Any = field(default=None, repr=False)
    waits: Path | None = None
    helper: bool = False
