"""What is killed: the words of each command line, and what of its files must not depend on kills."""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jpeg_files
import mini_cifar
import ranks
import test_resume
from cache_jobs import teacher_file
from cache_jobs import write as write_cache

Words = Callable[[Path, Path], list[str]]  # (folder with the data, folder that is written)


@dataclass(frozen=True, kw_only=True)
class Area:
    """words: of the command; count: of its processes; job: what each runs, with the words; runs: folders of trainings
    below what is written, () where the bytes of all files are compared."""

    name: str
    words: Words
    count: int = 1
    runs: tuple[str, ...] = ("",)
    job: Callable[[list[str]], None] = ranks.train


def prepare(root: Path) -> Path:
    """Data, a teacher and a cache of it, that all areas share."""
    mini_cifar.write(root, train=64, test=20)
    teacher_file(root)
    jpeg_files.aged(jpeg_files.tree(root / "tree", train=30))
    job = (cached_words(root, root / "cache"),)
    assert ranks.finish(ranks.start(write_cache, job, 1, root / "cache.log")) == [0]
    return root


def call(module: str, words: list[str]) -> None:
    """An entry point of this project in this process."""
    import importlib

    from pipeline import cli

    found = importlib.import_module(module)
    sys.argv = [module, *words]
    cli.run(found.main, found.help_text, getattr(found, "FAILURES", {}))


def synthetic(words: list[str]) -> None:
    call("data_prep.synthetic", words)


def beton(words: list[str]) -> None:
    call("data_prep.write_beton", words)


def export(words: list[str]) -> None:
    call("pipeline.export", words)


def index(words: list[str]) -> None:
    """Reads a tree of images with data.index=rebuild; the index lies in the tree."""
    from pipeline.datasets import DATASETS

    DATASETS.get("folder")(Path(words[0]), "train", index="rebuild")
    sys.exit(0)


def common(root: Path, out: Path) -> list[str]:
    return [
        *("dataset=cifar100", f"data.root={root}", "runtime.device=cpu", "data.batch_size=16", "data.workers=0"),
        *("data.eval_batch_size=20", "student.model=resnet8", "optim.epochs=3", f"run.dir={out.parent}"),
        *(f"run.name={out.name}", "run.checkpoint_steps=3", "runtime.threads=1"),
    ]


def cached_words(root: Path, out: Path) -> list[str]:
    keys = [key for key in common(root, out) if not key.startswith(("run.", "optim."))]
    return [
        *keys,
        "teacher.model=resnet8",
        f"teacher.checkpoint={root / 'teacher.pth'}",
        "cache.views=3",
        f"cache.out={out}",
    ]


def training(*more: str) -> Words:
    return lambda root, out: [*common(root, out), *(word.replace("ROOT", str(root)) for word in more)]


TAUGHT = ("teacher.model=resnet8", "teacher.checkpoint=ROOT/teacher.pth")
FIRST = ("method_args.first_epochs=2", "method_args.first_lr=1e-6")
AREAS = (
    Area(name="vanilla", words=training()),
    Area(name="crd", words=training("method=crd", "method_args.K=16", *TAUGHT)),
    Area(name="energykd", words=training("method=energykd", *TAUGHT)),
    Area(name="cached kd", words=training("method=kd", "teacher.cache=ROOT/cache", "teacher.source=cached", *TAUGHT)),
    Area(name="ft, first stage", words=training("method=ft", *FIRST, *TAUGHT), runs=("", "first_stage")),
    Area(name="kd, 2 ranks", words=training("method=kd", *TAUGHT), count=2),
    Area(
        name="2 seeds side by side",
        words=training("seeds=2", "runtime.parallel_seeds=2"),
        runs=("seed0", "seed1"),
    ),
    Area(name="cache writer", words=cached_words, runs=(), job=write_cache),
    Area(name="cache writer, 2 ranks", words=cached_words, runs=(), job=write_cache, count=2),
    Area(name="synthetic", words=lambda root, out: [f"out={out}"], runs=(), job=synthetic),
    Area(
        name="jpegs",
        words=lambda root, out: ["what=jpegs", f"out={out}", "classes=2", "train_per_class=8", "val_per_class=2"],
        runs=(),
        job=synthetic,
    ),
    Area(
        name="beton",
        words=lambda root, out: [
            *("dataset=folder", f"data.root={root / 'tree'}", f"out={out / 'x.beton'}", "max_resolution=64")
        ],
        runs=(),
        job=beton,
    ),
    Area(
        name="export",
        words=lambda root, out: [
            *("checkpoint=none", "model=resnet8", "dataset=cifar100", "to=safetensors", f"out={out / 'x.safetensors'}")
        ],
        runs=(),
        job=export,
    ),
    Area(name="index", words=lambda root, out: [str(root / "tree")], runs=(), job=index),
)


def written(area: Area, root: Path, out: Path) -> Path:
    """The folder whose files an area writes."""
    return root / "tree" if area.job is index else out


def sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file by its path, what killed writers left included. Cards name no folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def difference(area: Area, whole: Path, broken: Path) -> str:
    """What tells the broken one from the whole one; '' for nothing."""
    if not area.runs:
        a, b = sums(whole), sums(broken)
        return "" if a == b else f"other files: {sorted(a.items() ^ b.items())[:4]}"
    try:
        for run in area.runs:
            test_resume.assert_same_run(whole / run, broken / run)
            epochs = [record["epoch"] for record in test_resume.records(broken / run)]
            assert epochs == sorted(set(epochs)), f"epochs {epochs}"
        left = [str(path) for path in broken.rglob(".*") if path.name != ".lock"]
        assert not left, f"left behind: {left}"
    except AssertionError as error:
        return f"{' '.join(str(error).split())[:300]}"
    return ""
