"""Which runs of a sweep are done, in work, or still to be sent."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from launch.jobs.run_spec import RunSpec
from launch.jobs.submission_record import SubmissionRow, find_submissions, states
from launch.tables.runs import read_run
from pipeline.config import ConfigError, TrainConfig, flatten
from pipeline.run_folder.record import CONFIG, RunRecord

MANIFEST = "manifest.json"  # what a cache gets last
IN_WORK = ("pending", "running", "unknown")
SHOWN = 10
TRAIN = "train"


@dataclass
class SweepStatus:
    """The runs of a plan by what has become of them. in_work: with the record of the call that sent them, and its
    state; spared: teachers and caches that are not there, and that nobody needs."""

    done: list[RunSpec] = field(default_factory=list)
    in_work: list[tuple[RunSpec, SubmissionRow, str]] = field(default_factory=list)
    todo: list[RunSpec] = field(default_factory=list)
    spared: list[RunSpec] = field(default_factory=list)


def look(runs: Sequence[RunSpec], folder: Path) -> SweepStatus:
    """What has become of `runs`. Raises ConfigError where a folder holds a run of other numbers."""
    sent = {key_of(one): one for one in find_submissions([folder])} if folder.is_dir() else {}
    found = dict(zip(sent, states(list(sent.values())), strict=True))
    status, other = SweepStatus(), []
    for run in runs:
        key, there = (run.entry, str(run.folder.absolute())), training(run)
        problem = other_run(run, there)
        if problem:
            other.append(problem)
        elif is_done(run, there):
            status.done.append(run)
        elif found.get(key) in IN_WORK:
            status.in_work.append((run, sent[key], found[key]))
        else:
            status.todo.append(run)
    if other:
        more = [f"and {len(other) - SHOWN} more folders"] if len(other) > SHOWN else []
        raise ConfigError(other[:SHOWN] + more)
    return needed(status)


def needed(status: SweepStatus) -> SweepStatus:
    """Without teachers and caches that nothing waits for any more: their students are done."""
    wanted: set[Path | None] = set()
    kept, spared = list[RunSpec](), list[RunSpec]()
    for run in reversed(status.todo):  # what waits comes before what it waits for
        if run.helper and run.folder not in wanted:
            spared.append(run)
            continue
        kept.append(run)
        wanted.add(run.waits)
    return SweepStatus(status.done, status.in_work, kept[::-1], spared)


def training(run: RunSpec) -> RunRecord | None:
    """What lies in the folder of a training; None for a folder without a run, and for caches."""
    return read_run(run.folder) if run.entry == TRAIN and (run.folder / CONFIG).is_file() else None


def key_of(sent: SubmissionRow) -> tuple[str, str]:
    """(entry, folder that it writes to); later submissions of one run replace earlier ones."""
    out = next((yaml.safe_load(w.partition("=")[2]) for w in sent.words if w.startswith("cache.out=")), None)
    return sent.entry, str(sent.run_folder if out is None else Path(str(out)).absolute())


def is_done(run: RunSpec, there: RunRecord | None) -> bool:
    """Whether it needs no start: a cache with its manifest, a training of this length with its summary."""
    if run.entry != TRAIN:
        return (run.folder / MANIFEST).is_file()
    return there is not None and there.finished and _covers(there.config, run.config)


def _covers(there: TrainConfig, here: TrainConfig) -> bool:
    """Whether a finished run has gone at least as far: run.limit_steps may cut either short."""
    had, wanted = there.run.limit_steps, here.run.limit_steps
    return had is None or (wanted is not None and wanted <= had)


def other_run(run: RunSpec, there: RunRecord | None) -> str:
    """What is wrong where its folder holds a run of other numbers, which the run would refuse to go on with; ''."""
    if there is None:
        return ""
    had, wanted = flatten(there.config.numbers()), flatten(run.config.numbers())
    differ = [k for k in dict.fromkeys([*wanted, *had]) if k != "pair" and wanted.get(k) != had.get(k)]
    if not differ:
        return ""
    shown = ", ".join(f"{k} {had.get(k)} there, {wanted.get(k)} here" for k in differ[:3])
    more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
    return f"{run.folder} holds a run of other settings ({shown}{more}): choose another run.dir, or move it away"
