"""Measurements taken in turn, so that a slow minute of the machine falls on all of them; medians and ranges."""

import contextlib
import os
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Round = dict[str, float | None]  # images_per_second and whatever else was seen, None where it could not be
Measure = Callable[[], Round]
SPEED = "images_per_second"


def interleaved(
    measures: Mapping[str, Measure], rounds: int, note: Callable[[str], None] = lambda text: None
) -> dict[str, list[Round]]:
    """Each measure once per round. Measures warm themselves up; note: told what is under way."""
    results: dict[str, list[Round]] = {name: [] for name in measures}
    for number in range(rounds):
        for name, measure in measures.items():
            note(f"round {number + 1} of {rounds}: {name}")
            results[name].append(measure())
    return results


def summary(rounds: list[Round]) -> dict[str, Any]:
    """Medians of all that the rounds saw; of the images/s also `spread` (least and most) and all `rounds`."""
    speeds = [float(seen[SPEED] or 0.0) for seen in rounds]
    row: dict[str, Any] = {
        SPEED: round(statistics.median(speeds), 2),
        "spread": [round(min(speeds), 2), round(max(speeds), 2)],
        "rounds": [round(speed, 2) for speed in speeds],
    }
    for name in rounds[0]:
        values = [value for seen in rounds if (value := seen[name]) is not None]
        if name != SPEED:
            row[name] = float(f"{statistics.median(values):.4g}") if values else None
    return row


def with_ratios(rows: Mapping[str, dict[str, Any]], base: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows with `ratio`, their median over that of `base`."""
    return {name: {**row, "ratio": round(row[SPEED] / base[SPEED], 3)} for name, row in rows.items()}


def cpu_seconds() -> float | None:
    """Processor time that this process, its children and theirs have used; None where the system does not tell.

    The operating system adds a child's time to its parent's only when the child has ended, and workers live on.
    """
    stat = _stat_lines()
    family = {os.getpid()}
    for pid, fields in sorted(stat.items()):  # children have higher numbers than parents, but for wrap-around
        if int(fields[1]) in family:
            family.add(pid)
    ticks = sum(int(n) for pid in family & set(stat) for n in stat[pid][11:13])
    own = os.times()
    return ticks / os.sysconf("SC_CLK_TCK") + own.children_user + own.children_system if ticks else None


def _stat_lines() -> dict[int, list[str]]:
    """The fields behind the name in /proc/PID/stat: state, parent, ..., of all processes that can be read."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(folder.name)] = (folder / "stat").read_text().rpartition(")")[2].split()
    return found


def per_core(images: int, before: float | None) -> float | None:
    """Images per second of processor time since `before`: images/s and core in use."""
    now = cpu_seconds()
    return None if now is None or before is None or now <= before else images / (now - before)
