"""Writers of small caches: words of a command line over a tiny CIFAR-100, and jobs for processes of their own."""

import hashlib
import sys
from pathlib import Path

import torch

from pipeline.models.build import build

BATCH = 16


def teacher_file(folder: Path) -> Path:
    """Weights of a resnet8 whose batch norms have seen something."""
    torch.manual_seed(3)
    network = build("resnet8", num_classes=100)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(32, 3, 32, 32))
    path = folder / "teacher.pth"
    torch.save(network.state_dict(), path)
    return path


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def words(root: Path, *more: str) -> list[str]:
    """Keys that writers and trainings share."""
    return [
        "dataset=cifar100",
        f"data.root={root}",
        "teacher.model=resnet8",
        "student.model=resnet8",
        f"teacher.checkpoint={root / 'teacher.pth'}",
        f"data.batch_size={BATCH}",
        "data.workers=0",
        *more,
    ]


def write(argv: list[str], part: int = 2, chunk: int = 16) -> None:
    """data_prep/cache_teacher.py in parts of `part` batches of `chunk` images."""
    from data_prep import cache_teacher as module
    from pipeline import cli

    module.PART, module.CHUNK = part, chunk
    sys.argv = ["cache_teacher.py", *argv]
    cli.run(module.main, module.help_text, {})
