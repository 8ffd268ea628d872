"""Run folders as rows of a table: found below the folders given, read at once, in a stable order."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError
from pipeline.contracts import InputError
from pipeline.run_folder.groups import RunGroup, by_settings, repeats
from pipeline.run_folder.record import RunRecord, check_folder, find_runs
from pipeline.utils.untrusted_files import Unreadable

VISIBLE = ("dataset", "pair", "method", "variant", "recipe", "student.model", "teacher.model")  # columns of their own


def find_folders(paths: Iterable[Path]) -> list[Path]:
    """Run folders at or below `paths`, sorted, each once; set-aside runs only where named. Raises InputError."""
    found: dict[Path, None] = {}
    for path in paths:
        check_folder(path)
        below = find_runs(path)
        if not below:
            raise InputError(f"{path} holds no run (no config.yaml in it or below)")
        found.update(dict.fromkeys(sorted(folder.resolve() for folder in below)))
    return list(found)


def read_run(folder: Path) -> RunRecord:
    """One run folder, with what a table needs of it. Raises InputError with one line that names the file."""
    run = RunRecord(folder)
    with _named(run.files.config, "configuration"):
        _ = run.config
    with _named(run.files.summary, "summary"):
        _ = run.result
    with _named(run.files.metrics, "epochs"):
        how_far(run)
    return run


@contextlib.contextmanager
def _named(file: Path, what: str) -> Iterator[None]:
    """Says of errors inside which file they are of."""
    try:
        yield
    except ConfigError as error:
        raise InputError(f"{file} is not the {what} of a run: {error.problems[0]}") from None
    except Unreadable as error:
        why = str(error).removeprefix(f"cannot read {file}: ").removeprefix(f"{file} ")
        raise InputError(f"cannot read {file}: {why}") from None


def how_far(run: RunRecord) -> str:
    """'epoch 7 of 240', or 'done'."""
    if run.finished:
        return "done"
    done = [record["epoch"] for record in run.epochs if type(record["epoch"]) is int]
    return f"epoch {done[-1] if done else 0} of {run.config.optim.epochs}"


def group(runs: Iterable[RunRecord]) -> tuple[list[RunGroup], list[str]]:
    """(groups in a stable order, one line for each run that repeats another one's seed and is left out)."""
    given = list(runs)
    groups = by_settings(given)
    twice = repeats(groups)
    lines = [
        f"{run.folder}: same settings and seed as {twice[run.folder]}, left out" for run in given if run.folder in twice
    ]
    return _told_apart(sorted(groups, key=_order)), lines


def _columns(run: RunRecord) -> tuple[str, str, str, str, str]:
    config = run.config
    return config.dataset, run.pair, config.method, config.variant, config.recipe


def _order(one: RunGroup) -> tuple[Any, ...]:
    return *_columns(one.any_run), json.dumps(one.any_run.settings, sort_keys=True)


def _told_apart(groups: list[RunGroup]) -> list[RunGroup]:
    """The groups, sorted by their columns, with `settings` where several share all of these."""
    told = []
    for _, same in itertools.groupby(groups, lambda one: _columns(one.any_run)):
        alike = list(same)
        rows = [one.any_run.settings for one in alike]
        keys = dict.fromkeys(k for row in rows for k in row if k not in VISIBLE)
        differ = [k for k in keys if len({_text(row.get(k)) for row in rows}) > 1]
        told += [replace(one, settings={k: row.get(k) for k in differ}) for one, row in zip(alike, rows, strict=True)]
    return told


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def settings_text(settings: Mapping[str, Any]) -> str:
    """'optim.lr=0.1 run.limit_steps=-': None is a dash."""
    return " ".join(f"{k}={'-' if v is None else v if isinstance(v, str) else _text(v)}" for k, v in settings.items())
