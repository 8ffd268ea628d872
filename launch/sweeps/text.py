"""What a sweep says: its list before anything is sent, one line for each run that ends, what failed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.jobs.run_spec import RunSpec
from launch.sweeps.runs import Plan
from launch.sweeps.state import TRAIN, SweepStatus
from launch.tables.runs import read_run
from pipeline.contracts import InputError

CELLS = 50  # that are listed one by one
ORDER = ("done", "running", "pending", "unknown", "to do", "not needed")


def listing(plan: Plan, status: SweepStatus) -> str:
    """Counts, and a line for each cell where these are few."""
    states = states_by_folder(status)
    stages = {"teachers": plan.teachers, "caches": plan.caches, "students": plan.students}
    parts = [f"{len(runs)} {name}" for name, runs in stages.items() if runs]
    lines = [f"{len(plan.runs)} runs ({', '.join(parts)}): {counted(states.values())}"]
    if plan.repeats:
        lines.append(f"{plan.repeats} repeat others and are left out")
    live = sum(
        run.config.teacher.source != "cached" and run.config.teacher.checkpoint is not None for run in plan.students
    )
    if plan.caches and live:
        lines.append(f"{live} students keep a live teacher: their methods need more than a cache holds")
    cells: dict[str, list[RunSpec]] = {}
    for run in plan.runs:
        cells.setdefault(cell_name(run), []).append(run)
    if len(cells) <= CELLS:
        width = max(map(len, cells))
        lines += [f"  {name:{width}}  {_cell(runs, states)}" for name, runs in cells.items()]
    return "\n".join(lines)


def states_by_folder(status: SweepStatus) -> dict[Path, str]:
    """One of ORDER for every run."""
    found = {run.folder: "done" for run in status.done} | {run.folder: state for run, _, state in status.in_work}
    spared = {run.folder: "not needed" for run in status.spared}
    return found | {run.folder: "to do" for run in status.todo} | spared


def counted(states: Iterable[str]) -> str:
    """'3 done, 1 running, 14 to do'."""
    counts = Counter(states)
    return ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def cell_name(run: RunSpec) -> str:
    """The run's name without its seed."""
    head, _, tail = run.name.rpartition("/")
    return head if tail.startswith("seed") else run.name


def _cell(runs: Sequence[RunSpec], states: dict[Path, str]) -> str:
    seeds = " ".join(str(run.config.seed) for run in runs) if runs[0].entry == TRAIN else ""
    text = counted([states[run.folder] for run in runs])
    return f"seed {seeds}: {text}" if seeds else text


def ended_line(run: RunSpec, state: str, number: int, of: int, seconds: float) -> str:
    """One run that has ended."""
    minutes, rest = divmod(round(seconds), 60)
    width = len(str(of))
    return f"[{number:{width}}/{of}] {minutes:3d} min {rest:02d} s  {state:9} {run.name}{result(run, state)}"


def result(run: RunSpec, state: str) -> str:
    """'  top-1 82.10' of a training that is done."""
    if state != "done" or run.entry != TRAIN:
        return ""
    try:
        found = read_run(run.folder).result
    except InputError:
        return ""
    return "" if found is None else f"  top-1 {found.top1_last:.2f}"
