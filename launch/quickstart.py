"""The main job on the embedded data set: train a teacher, train a student alone, distil the teacher into the student.

python launch/quickstart.py [seeds=3 first_seed=0 out=runs/quickstart teacher=... student=... jobs=2]

Three seeds of each by default, then a table. Nothing is downloaded.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from launch.jobs.inherited import cleaned
from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import PathText, Text
from pipeline.run_folder.record import RunRecord
from pipeline.run_folder.spread import mean_std, spread_text

TRAIN = Path(__file__).resolve().parents[1] / "pipeline" / "train.py"
Summary = dict[str, Any]


class QuickstartConfig(BaseModel):
    """Keys of launch/quickstart.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seeds: int = Field(3, ge=1, le=10_000, description="runs of each kind")
    first_seed: int = Field(0, ge=0, lt=2**32 - 10_000, description="first seed")
    out: PathText = Field("runs/quickstart", description="folder of the runs")
    teacher: Text = Field("resnet14", description="teacher network")
    teacher_epochs: int = Field(9, ge=1, le=1_000_000, description="epochs of the teacher")
    student: Text = Field("resnet8", description="student network")
    student_epochs: int = Field(4, ge=1, le=1_000_000, description="epochs of the student, alone and distilled")
    jobs: int = Field(0, ge=0, le=1024, description="runs side by side, one thread each; 0 = one per core")


class Failed(Exception):
    """A run ended without a summary."""


def train(config: QuickstartConfig, kind: str, seed: int, *words: str) -> Summary:
    """One run of pipeline/train.py in its own process; returns its summary. Raises Failed with the end of its log."""
    name = f"{kind}/seed{seed}"
    command = [
        sys.executable,
        str(TRAIN),
        "dataset=synthetic",
        f"seed={seed}",
        f"run.dir={config.out}",
        f"run.name={name}",
    ]
    environment = cleaned() | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "runtime.device=cpu", "runtime.threads=1", "log.tensorboard=false", *words],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise Failed(f"{name} ended with exit code {done.returncode}:\n{tail}")
    summary: Summary | None = RunRecord(Path(config.out) / name).summary
    if summary is None:
        raise Failed(f"{name} has no summary.json")
    print(f"  {name:28} top1 {summary['top1_last']:.2f}   {summary['wall_seconds']:.0f} s", flush=True)
    return summary


def run_all(config: QuickstartConfig) -> dict[str, list[Summary]]:
    """Summaries by kind: teacher, alone, distilled. A student waits for the teacher of its own seed."""
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    teachers: dict[int, Future[Summary]] = {}
    student = (f"model={config.student}", f"optim.epochs={config.student_epochs}", "run.eval_every=2")
    teacher = (f"model={config.teacher}", f"optim.epochs={config.teacher_epochs}", "run.eval_every=3")

    def distil(seed: int) -> Summary:
        teachers[seed].result()
        checkpoint = f"teacher.checkpoint={config.out}/teacher/seed{seed}"
        return train(config, "distilled", seed, "method=kd", f"teacher.model={config.teacher}", *student, checkpoint)

    # Teachers go first into the queue, so that no waiting student can keep them out.
    with ThreadPoolExecutor(config.jobs or os.cpu_count() or 1) as pool:
        teachers.update({s: pool.submit(train, config, "teacher", s, *teacher) for s in seeds})
        alone = [pool.submit(train, config, "alone", s, *student) for s in seeds]
        distilled = [pool.submit(distil, s) for s in seeds]
        groups = {"teacher": list(teachers.values()), "alone": alone, "distilled": distilled}
        try:
            return {kind: [future.result() for future in futures] for kind, futures in groups.items()}
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def table(config: QuickstartConfig, groups: dict[str, list[Summary]]) -> Table:
    """What came out, last and best epoch apart."""
    titles = {
        "teacher": f"teacher {config.teacher}",
        "alone": f"student {config.student} alone",
        "distilled": f"student {config.student} distilled (kd)",
    }
    made = Table(title=f"top-1 on the test set, %, mean +- std of {config.seeds} seeds")
    for column in ("run", "last epoch", "best epoch", "parameters", "images/s"):
        made.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for kind, summaries in groups.items():
        speed, _ = mean_std(s["images_per_second"] for s in summaries) or (0.0, None)
        last, best = (_spread(s[key] for s in summaries) for key in ("top1_last", "top1_best"))
        made.add_row(titles[kind], last, best, f"{summaries[0]['parameters']:,}", f"{speed:.0f}")
    return made


def _spread(values: Iterable[float]) -> str:
    return spread_text(mean_std(values), sign="+-")


def minutes_of(config: QuickstartConfig) -> int:
    """How long the default networks take: 6 s of a core an epoch of the teacher, 5 s one of a student (EPYC)."""
    teacher, student = 6 * config.teacher_epochs, 5 * config.student_epochs
    all_runs = config.seeds * (teacher + 2 * student) / (config.jobs or os.cpu_count() or 1)
    return math.ceil(max(all_runs, teacher + student) / 60)


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", QuickstartConfig)


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(QuickstartConfig, argv)
    start = time.perf_counter()
    print(
        f"{3 * config.seeds} runs on the embedded data set, about {minutes_of(config)} min on quiet cores; a line as "
        f"each ends, its epochs until then in {config.out}/<teacher|alone|distilled>/seed<k>/metrics.jsonl",
        flush=True,
    )
    groups = run_all(config)
    Console(width=110).print(table(config, groups))
    gain = [d["top1_last"] - a["top1_last"] for d, a in zip(groups["distilled"], groups["alone"], strict=True)]
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    print(f"distillation gains {_spread(gain)} points (last epoch, seed by seed); {minutes} min {seconds} s")
    print(f"each run's folder: {config.out}/<teacher|alone|distilled>/seed<k>")


if __name__ == "__main__":
    cli.run(main, help_text, {Failed: 1})
