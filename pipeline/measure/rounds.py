"""Measurements taken in turn, so that a slow minute of the machine falls on all of them; medians and ranges."""

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Round = dict[str, float | None]  # images_per_second and whatever else was seen, None where it could not be
Measure = Callable[[], Round]
SPEED = "images_per_second"


def interleaved(
    measures: Mapping[str, Measure], rounds: int, note: Callable[[str], None] = lambda text: None
) -> dict[str, list[Round]]:
    """Each measure once per round, every other round backwards: a drift of the machine's speed falls on none of them.

    Measures warm themselves up; note: told what is under way.
    """
    results: dict[str, list[Round]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            note(f"round {number + 1} of {rounds}: {name}")
            results[name].append(measures[name]())
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
    """The rows with `ratio`, their median over that of `base`; and what is robust to noise: `paired_ratio`, the median
    of the ratios within each round, with `paired_spread`, their quartiles; `core_ratio`, of images per processor time.
    """
    return {name: row | _ratios(row, base) for name, row in rows.items()}


def _ratios(row: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    pairs = [a / b for a, b in zip(row["rounds"], base["rounds"], strict=True)]
    found: dict[str, Any] = {"ratio": round(row[SPEED] / base[SPEED], 3)}
    if len(pairs) > 1:
        first, _, third = statistics.quantiles(pairs, method="inclusive")
        found |= {
            "paired_ratio": round(statistics.median(pairs), 3),
            "paired_spread": [round(first, 3), round(third, 3)],
        }
    if row.get("per_core") and base.get("per_core"):
        found["core_ratio"] = round(row["per_core"] / base["per_core"], 3)
    return found


def cpu_seconds() -> float | None:
    """Processor time that this process, its children and theirs have used; None where the system does not tell.

    The operating system adds a child's time to its parent's only when the child has ended, and workers live on. Theirs
    is known to a hundredth of a second, this process's own exactly.
    """
    stat = _stat_lines()
    own = os.getpid()
    family = {own}
    for pid, fields in sorted(stat.items()):  # children have higher numbers than parents, but for wrap-around
        if int(fields[1]) in family:
            family.add(pid)
    if own not in stat:
        return None
    ticks = sum(int(n) for pid in (family - {own}) & set(stat) for n in stat[pid][11:13])
    ended = os.times()
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK") + ended.children_user + ended.children_system


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
