"""Is a tree of images whole? Every file is decoded, counted and compared; the index files and a report are written."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet
from pipeline.datasets.decode import decode_rgb
from pipeline.datasets.encoded import is_ordinary
from pipeline.datasets.image_set import SPLITS, one_class
from pipeline.datasets.plain_files import read_plain
from pipeline.utils.atomic import write_json

REPORT = "report.json"
DIGEST_BYTES = 16
STEP = 1024  # files given to the threads at once
LISTED = 1000  # names in the report, of each kind

Watch = Callable[[str, int | None], Callable[[int], None]]


class Found(NamedTuple):
    """Of one file. digest: of its bytes; fault: why it cannot be decoded; ordinary: a JPEG that any decoder reads."""

    digest: bytes
    fault: str | None
    ordinary: bool


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Of one split. digest_N: S16; faults: reason by path; odd: readable files that are no ordinary JPEG."""

    files: FileSet
    digest_N: NDArray[np.void]
    faults: dict[str, str]
    odd: list[str]

    def counts(self) -> dict[str, int]:
        """Images by class name."""
        count_K = np.bincount(self.files.label_N, minlength=self.files.num_classes)
        return dict(zip(self.files.class_names, count_K.tolist(), strict=True))


def check_tree(dataset: str, root: Path, published: dict[str, int], workers: int, **options: str) -> str:
    """Checks both splits of `dataset` in `root`, writes their indices and root/report.json; returns one line.

    published: images per split of the whole set; options: of the data set. Raises InputError when a file cannot be
    decoded (all the same the report is written), and when a split cannot be loaded.
    """
    sets = [load(dataset, root, split, **options) for split in SPLITS]
    with bars() as watch:
        checked = [check_files(files, workers, watch("check " + files.split, len(files))) for files in sets]
    doubled = duplicates(*checked)
    faults = {path: reason for part in checked for path, reason in part.faults.items()}
    report = {
        "dataset": dataset,
        "splits": {part.files.split: _of_split(part, published[part.files.split]) for part in checked},
        "in_train_and_test": {"count": len(doubled), "files": doubled[:LISTED]},
        "whole": not faults,
    }
    path = root / REPORT
    write_json(path, report)
    sizes = ", ".join(
        f"{len(p.files):,} {p.files.split} images of {np.unique(p.files.label_N).size} classes" for p in checked
    )
    alone = next((f"; {reason}: no run can be trained on it" for reason in map(one_class, sets) if reason), "")
    line = (
        f"{dataset} in {root}: {sizes}{alone}; {len(faults)} unreadable, {len(doubled)} both in train and test; {path}"
    )
    if faults:
        name, reason = next(iter(faults.items()))
        raise InputError(f"{line}; the first unreadable one is {name}: {reason} (data.on_bad=replace trains without)")
    return line


def load(dataset: str, root: Path, split: str, **options: str) -> FileSet:
    """A set of files with a new index. Raises InputError."""
    found = DATASETS.get(dataset)(root=root, split=split, index="rebuild", **options)
    assert isinstance(found, FileSet)
    return found


def check_files(files: FileSet, workers: int, told: Callable[[int], None]) -> Checked:
    """Reads and decodes all files, `workers` at a time. told: called with numbers of files done."""
    digest_N = np.zeros(len(files), dtype=f"V{DIGEST_BYTES}")
    faults, odd = {}, []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for first in range(0, len(files), STEP):
            paths = files.paths[first : first + STEP]
            for at, found in enumerate(pool.map(lambda path: _check(files.root / path), paths)):
                digest_N[first + at] = np.void(found.digest)
                if found.fault is not None:
                    faults[paths[at]] = found.fault
                elif not found.ordinary:
                    odd.append(paths[at])
            told(len(paths))
    return Checked(files=files, digest_N=digest_N, faults=faults, odd=odd)


def duplicates(train: Checked, test: Checked) -> list[dict[str, str]]:
    """Pairs of files, one in each split, of the same bytes."""
    first = {train.digest_N[i].tobytes(): i for i in reversed(range(len(train.files)))}
    first.pop(bytes(DIGEST_BYTES), None)  # files that could not be opened
    pairs = []
    for i, digest in enumerate(test.digest_N):
        at = first.get(digest.tobytes())
        if at is not None:
            pairs.append({"train": train.files.paths[at], "test": test.files.paths[i]})
    return pairs


def _check(path: Path) -> Found:
    try:
        data = read_plain(path)
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Found(bytes(DIGEST_BYTES), reason, False)
    digest = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    try:
        decode_rgb(data)
    except (InputError, MemoryError) as error:
        return Found(digest, str(error) or "out of memory", False)
    return Found(digest, None, is_ordinary(data))


def _of_split(part: Checked, published: int) -> dict[str, Any]:
    return {
        "images": len(part.files),
        "published": published,
        "fingerprint": part.files.fingerprint(),
        "classes": part.counts(),
        "unreadable": part.faults,
        "no_ordinary_jpeg": {"count": len(part.odd), "files": part.odd[:LISTED]},
    }


@contextmanager
def bars() -> Iterator[Watch]:
    """A progress bar for each task, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def watch(name: str, total: int | None) -> Callable[[int], None]:
            task = progress.add_task(name, total=total)
            return lambda done: progress.advance(task, done)

        yield watch
