"""metrics.jsonl: a line per closed epoch, the same that the checkpoint holds, whatever befell the file meanwhile."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.contracts import InputError
from pipeline.utils.atomic import put_aside, write_text
from pipeline.utils.untrusted_files import Unreadable, parse_json, read_bytes

Record = dict[str, Any]


class Lines(NamedTuple):
    """What a file holds: its records, whether there is anything else in it, and its bytes."""

    records: list[Record]
    odd: bool
    content: bytes


def fault_of(record: object, epoch: int | None = None) -> str | None:
    """What is wrong with the record of an epoch; None for a good one. epoch: the one it must be of."""
    if not isinstance(record, dict):
        return "no record"
    if not _is_number(record.get("epoch"), int) or (epoch is not None and record["epoch"] != epoch):
        return f"no epoch {epoch or ''}".strip()
    for key in ("seconds", "test_top1"):
        if not (_is_number(record.get(key)) or (key != "seconds" and key in record and record[key] is None)):
            return f"{key} is no number"
    if not isinstance(record.get("terms", {}), dict) or (not _is_number(record.get("val_top1", None) or 0.0)):
        return "terms or val_top1 of another type"
    return None


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds or (int, float)) and not isinstance(value, bool)


def settle(path: Path, kept: Sequence[Record] | None, closed: int) -> tuple[list[Record], list[str]]:
    """(the records of the `closed` epochs, what is to be said); the file holds these lines and no other then.

    kept: what the checkpoint holds; None for a checkpoint of an earlier version, which leaves them to the file. Lines
    of epochs that are run again go; a file with lines that were written by somebody else is kept under another name.
    Raises InputError when records are lost, or the file is no plain file; OSError.
    """
    try:
        lines = read_lines(path)
    except Unreadable as error:
        raise InputError(str(error)) from None
    records = list(kept) if kept is not None else _from_file(path, lines, closed)
    text = "".join(json.dumps(record) + "\n" for record in records)
    if lines.content == text.encode():
        return records, []
    said = []
    mine = {record["epoch"]: json.dumps(record, sort_keys=True) for record in records}
    early = [record for record in lines.records if record["epoch"] <= closed]
    if lines.odd or any(json.dumps(record, sort_keys=True) != mine[record["epoch"]] for record in early):
        said.append(f"{path} holds lines that this run did not write: kept as {put_aside(path)}")
    lost = sorted(mine.keys() - {record["epoch"] for record in early})
    if lost:
        said.append(f"{path} lacked epoch {_listed(lost)}: written again from the checkpoint")
    if text or path.exists():
        write_text(path, text)
    return records, said


def read_lines(path: Path) -> Lines:
    """The file as it is, empty where there is none. Raises Unreadable for what is no plain file."""
    content = read_bytes(path) if path.exists() else b""
    *whole, rest = content.split(b"\n")
    records, odd = [], False
    for line in [*whole, *([rest] if rest else [])]:
        try:
            record = parse_json(line, str(path), finite=False)
        except Unreadable:
            record = None
        if fault_of(record) is None and record["epoch"] >= 1:
            records.append(record)
        else:
            odd = odd or line is not rest  # a writer was killed inside the last line
    return Lines(records, odd, content)


def _from_file(path: Path, lines: Lines, closed: int) -> list[Record]:
    found = {record["epoch"]: record for record in lines.records}
    lost = [epoch for epoch in range(1, closed + 1) if epoch not in found]
    if lost:
        raise InputError(
            f"{path} lacks epoch {_listed(lost)} of the {closed} that the checkpoint counts, and a checkpoint of this "
            "age does not hold them: put the file back, or run.resume=never sets the folder aside"
        )
    return [found[epoch] for epoch in range(1, closed + 1)]


def _listed(epochs: Sequence[int], most: int = 5) -> str:
    return ", ".join(map(str, epochs[:most])) + (f" and {len(epochs) - most} more" if len(epochs) > most else "")


def is_finite(value: object) -> bool:
    """A number that is neither NaN nor infinite, and no bool."""
    return _is_number(value) and math.isfinite(value)  # type: ignore[arg-type]
