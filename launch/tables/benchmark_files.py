"""Inputs of launch/scaling.py out of the JSON files that pipeline/benchmark.py writes (json=F)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.contracts import InputError
from pipeline.utils.untrusted_files import Unreadable, read_json

LOOP = "training loop"
Report = Mapping[str, Any]


def _step(report: Report, key: str) -> Any:
    row = (report.get("step") or {}).get(LOOP)
    return None if row is None else row[key]


def _loader(report: Report) -> Any:
    """Of the loader that the run uses; of the fastest one where that was not measured."""
    rows = report.get("loaders") or {}
    if not rows:
        return None
    used = rows.get(report.get("loader"))
    return used["images_per_second"] if used else max(row["images_per_second"] for row in rows.values())


# Key of the plan: what a report says of it, None where it was not measured.
SOURCES: dict[str, Callable[[Report], Any]] = {
    "step_ms": lambda report: _step(report, "ms_per_step"),
    "images_per_gpu": lambda report: report.get("images_a_step"),
    "parameters": lambda report: report.get("parameters"),
    "backward_share": lambda report: report.get("backward_share"),
    "loader_per_node": _loader,
    "image_bytes": lambda report: (report.get("decode_limit") or {}).get("mean_bytes"),
}


def inputs_of(paths: list[str]) -> dict[str, float]:
    """What the files measured, later ones before earlier ones. Raises InputError for a file that measured nothing."""
    found: dict[str, float] = {}
    for path in paths:
        report = _read(path)
        try:
            values = {name: source(report) for name, source in SOURCES.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"from={path}: not a file of pipeline/benchmark.py json=F") from None
        known = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if not known:
            raise InputError(f"from={path}: no figures of a step or a loader (pipeline/benchmark.py what=step json=F)")
        found |= known
    return found


def _read(path: str) -> Report:
    try:
        report = read_json(Path(path).expanduser())
    except Unreadable as error:
        raise InputError(f"from={path}: {error}") from None
    if not isinstance(report, dict):
        raise InputError(f"from={path}: not a file of pipeline/benchmark.py json=F")
    return report


def with_measured(words: list[str]) -> tuple[list[str], dict[str, float]]:
    """(the command line behind what from=A.json,B.json says, without from=; that). Words of the command line win."""
    paths = [path for word in words if word.startswith("from=") for path in word[len("from=") :].split(",") if path]
    measured = inputs_of(paths)
    given = [word for word in words if not word.startswith("from=")]
    named = {word.partition("=")[0] for word in given}
    used = {name: value for name, value in measured.items() if name not in named}
    return [*(f"{name}={value}" for name, value in used.items()), *given], used
