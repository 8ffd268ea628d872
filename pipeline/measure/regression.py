"""Regression files: what was measured on which day and machine, and how today compares.

A file is {"records": [...]}, the newest last. A record holds date, hardware, versions, commit, command, rounds, and
the rows of each table: median, spread and rounds of images/s, ratios to the yardstick of that table.
"""

import datetime
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.contracts import InputError
from pipeline.measure.keys import own_keys
from pipeline.measure.rounds import SPEED
from pipeline.run_folder.folder import environment
from pipeline.utils.atomic import write_json
from pipeline.utils.untrusted_files import Unreadable, read_json

HARDWARE = ("device", "cpu", "cores", "cpu_threads", "gpus")
TABLES = ("loaders", "step", "variants", "train")
OUTPUTS = {"json", *own_keys("place")}  # keys that say whereto figures go
MANNER = OUTPUTS | {*own_keys("log")}  # and how long is measured: not what
Record = dict[str, Any]


def read(path: Path, key: str) -> list[Record]:
    """The records of a file, [] of one that is not there. Raises InputError for anything else than such a file."""
    try:
        found = read_json(path) if path.exists() else {"records": []}
    except (OSError, Unreadable) as error:
        raise InputError(f"{key}={path}: {error}") from None
    records = found.get("records") if isinstance(found, dict) else None
    if not isinstance(records, list) or not all(_is_record(record) for record in records):
        raise InputError(f"{key}={path}: not a regression file (record= writes one)")
    return records


def _is_record(record: Any) -> bool:
    wanted = {"hardware": dict, "subject": list, "figures": dict, "date": str}
    if not isinstance(record, dict) or not all(isinstance(record.get(k), kind) for k, kind in wanted.items()):
        return False
    return all(isinstance(row, dict) and SPEED in row and "spread" in row for row in record["figures"].values())


def record_of(report: Mapping[str, Any], words: list[str]) -> Record:
    """What is kept of a report. words: the command line; of paths the last part is kept."""
    seen = environment()
    plain = [shlex.quote(_without_folders(word)) for word in words if word.partition("=")[0] not in OUTPUTS]
    rows = {f"{table}: {name}": dict(row) for table in TABLES for name, row in (report[table] or {}).items()}
    if report["yardstick"]:
        rows["loaders: yardstick"] = {k: v for k, v in report["yardstick"].items() if k != "name"}
    if report["decode_limit"]:
        limit = report["decode_limit"]["rows"].items()
        rows |= {f"decode: {name}": {k: v for k, v in row.items() if k != "decoder"} for name, row in limit}
    ceilings = {key: report[key] for key in ("peak_flops", "copy_bandwidth", "operation_seconds") if key in report}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"),
        "hardware": {name: report["machine"][name] for name in HARDWARE},
        "versions": report["versions"],
        "commit": seen["git"],
        "command": " ".join(["python pipeline/benchmark.py", *plain]),
        "subject": subject(words),
        "rounds": report["rounds"],
        "ceilings": ceilings,
        "figures": rows,
        "parts": report["parts"],
    }


def _without_folders(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name}{equals}{Path(value).name}" if "/" in value else word


def subject(words: list[str]) -> list[str]:
    """What is measured: the words of the command without those that say how, sorted."""
    return sorted(_without_folders(word) for word in words if word.partition("=")[0] not in MANNER)


def last_alike(records: list[Record], now: Record) -> Record | None:
    """The newest record of the same hardware and subject."""
    return next((r for r in reversed(records) if all(r[k] == now[k] for k in ("hardware", "subject"))), None)


def change(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """'slower' or 'faster' where the ranges of the two do not meet, else ''."""
    if now["spread"][1] < then["spread"][0]:
        return "slower"
    return "faster" if now["spread"][0] > then["spread"][1] else ""


def comparison(then: Record, now: Record) -> Table:
    """One row a figure that both have."""
    title = f"Against {then['date']}, commit {str(then.get('commit'))[:12]}: medians, least to most"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for head in ("images/s then", "now", "now / then", "ratio then", "now", "beyond the spread"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in now["figures"].items():
        before = then["figures"].get(name)
        if before is not None:
            ratios = (_ratio(before), _ratio(row))
            quotient = f"{row[SPEED] / before[SPEED]:.2f}"
            table.add_row(name, _speed(before), _speed(row), quotient, *ratios, change(before, row))
    return table


def _ratio(row: Mapping[str, Any]) -> str:
    value = row.get("paired_ratio", row.get("ratio"))
    return "-" if value is None else f"{value:.2f}"


def _speed(row: Mapping[str, Any]) -> str:
    return f"{row[SPEED]:,.0f} ({row['spread'][0]:,.0f} to {row['spread'][1]:,.0f})"


@dataclass
class Book:
    """record= and compare= of one call. Files are read before anything is measured: InputError."""

    words: list[str]
    record: str | None = None
    compare: str | None = None

    def __post_init__(self) -> None:
        if self.compare is not None and not Path(self.compare).exists():
            raise InputError(f"compare={self.compare}: no such file (record= writes one)")
        self.earlier = read(Path(self.compare), "compare") if self.compare else []
        if self.record:
            read(Path(self.record), "record")

    def close(self, report: Mapping[str, Any], console: Console) -> None:
        """Compares, then adds. A slower figure is a sentence, not an error: machines have bad days."""
        now = record_of(report, self.words)
        if self.compare:
            then = last_alike(self.earlier, now)
            console.print(comparison(then, now) if then else f"{self.compare}: {unmatched(self.earlier, now)}")
        if self.record:
            path = Path(self.record)
            try:
                write_json(path, {"records": [*read(path, "record"), now]})
            except OSError as error:
                raise InputError(f"record={path}: {error.strerror}") from None


def unmatched(records: list[Record], now: Record) -> str:
    """Why there is nothing to compare with."""
    alike = [r for r in records if r["hardware"] == now["hardware"]]
    if not alike:
        return "no record of this hardware; record= adds one"
    return "no record of this command on this hardware: " + "; ".join(sorted({r["command"] for r in alike}))
