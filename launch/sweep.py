"""A table of runs as one command: composed, checked, sent as arrays, collected into a table beside published figures.

python launch/sweep.py sweep=NAME|FILE.yaml [cluster=local|slurm|SITE cluster.parallel=N cluster.pack=K ...]
    [seeds=N axes.KEY=[A,B] table=T teachers=given|auto|train ...] [sweep.dry=true] KEYS OF train.py

Called again, it sends only what is missing. Keys of train.py win over the file and hold for all runs.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from launch.jobs.run_spec import RunSpec
from launch.sweeps.caches import add_caches
from launch.sweeps.cells import cells_of, count
from launch.sweeps.file import plain, read_words, sweep_name
from launch.sweeps.follow import Failed, Following, Handle, Stopped, report, stoppable, unheard
from launch.sweeps.keys import Asked, SweepConfig, SweepFile
from launch.sweeps.plan import make_plan
from launch.sweeps.runs import Plan
from launch.sweeps.state import SweepStatus, look
from launch.sweeps.submit import SentRun, check, locked, send, weight_problems
from launch.sweeps.text import listing
from launch.tables.published import read_published
from pipeline import cli
from pipeline.config import ConfigError, describe
from pipeline.config.layer_folders import layer_files
from pipeline.config.layers import CONFIGS
from pipeline.contracts import InputError
from pipeline.engine.distributed.preemption import EXIT_CODE
from pipeline.utils.atomic import write_text
from pipeline.utils.commands import as_typed

FAILURES: dict[type[Exception], int] = {Failed: 1, Stopped: EXIT_CODE}


def planned(asked: Asked) -> Plan:
    """All runs of the sweep, composed and checked. Raises ConfigError and InputError before anything is written."""
    cells = cells_of(asked.file, asked.words, read_published())
    confirm(count(cells), asked.launcher.sweep.most)
    top = str(asked.words.get("run.dir", asked.file.set.get("run.dir", "runs")))
    plan = make_plan(asked.file, cells, asked.words, Path(top) / sweep_name(asked.launcher.sweep.name))
    if asked.file.cache is not None:
        plan = add_caches(plan, asked.file.cache)
    check(asked.launcher.cluster, plan)
    return plan


def confirm(runs: int, most: int) -> None:
    """Asks before many runs. Raises InputError without a terminal, or without a yes."""
    if runs <= most:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError(f"{runs:,} runs: more than sweep.most={most}; sweep.most={runs} lets them pass")
    if input(f"{runs:,} runs, more than sweep.most={most}. Type yes to go on: ").strip().lower() != "yes":
        raise InputError("nothing was sent")


def sent(asked: Asked, plan: Plan) -> tuple[SweepStatus, list[SentRun]]:
    """(what there was, what was submitted now). Two calls at once send no run twice."""
    with locked(plan.folder):
        status = look(plan.runs, plan.folder)
        write_text(plan.folder / "sweep.yaml", plain(asked.file, asked.words))
        print(listing(plan, status), flush=True)
        with unheard():
            jobs = send(asked.launcher.cluster, plan, status)
    numbers = list(dict.fromkeys(str(job.folder.name) for _, job in jobs))
    if jobs:
        print(f"sent {len(jobs)} runs to cluster={asked.launcher.cluster.name}: {plan.folder}/{{{','.join(numbers)}}}")
    return status, jobs


def away(plan: Plan, jobs: list[SentRun]) -> None:
    """What to do while Slurm works."""
    ids = list(dict.fromkeys(job.job_id.partition("_")[0] for _, job in jobs))
    if ids:
        print(f"jobs {' '.join(ids)}; to stop them: scancel {' '.join(ids)}")
    watch, table = as_typed("python launch/status.py"), as_typed("python launch/table.py")
    print(f"watch:  {watch} {plan.folder}\ntable:  {table} {plan.folder}")


def stay(asked: Asked, plan: Plan, status: SweepStatus, jobs: list[SentRun]) -> None:
    """Until all have ended; then tables and pictures. Raises Failed, Stopped."""
    rows: list[tuple[RunSpec, Handle]] = [*jobs, *((run, there) for run, there, _ in status.in_work)]
    following = Following(rows, asked.launcher.cluster.patience * 60.0)
    following.watch()
    failures = following.failures()
    keys = asked.launcher.sweep
    try:
        report(plan.folder, asked.file.title, keys.pictures, keys.images)
    except InputError as error:
        print(f"no table: {error.args[0]}", flush=True)
    if failures:
        count = sum(state != "done" for *_, state in following.ended)
        raise Failed(
            f"{count} of {len(following.ended)} runs without a result; the same command sends them again\n{failures}"
        )


def help_text() -> str:
    """What --help prints."""
    known = ", ".join(layer_files(CONFIGS, "sweep"))
    keys = describe("", SweepFile, "").strip()
    return describe(
        __doc__ or "", SweepConfig, f"\nKeys of the sweep's file:\n{keys}\n\nsweeps: {known}\nFurther keys: train.py's."
    )


def main(argv: list[str]) -> None:
    """The command line."""
    asked = read_words(argv)
    plan, cluster = planned(asked), asked.launcher.cluster
    missing = weight_problems(plan)
    if asked.launcher.sweep.dry:
        print(listing(plan, look(plan.runs, plan.folder)))
        for line in missing:
            print(f"missing: {line}")
        return
    if missing:
        raise ConfigError(missing)
    with stoppable():
        status, jobs = sent(asked, plan)
        if cluster.name == "local" or asked.launcher.follow:
            stay(asked, plan, status, jobs)
        else:
            away(plan, jobs)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    cli.run(main, help_text, FAILURES)
