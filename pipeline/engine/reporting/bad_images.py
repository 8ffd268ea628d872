"""`replaced.jsonl`: the images of a run that could not be read, each once, and what was shown instead."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.contracts import Loader
from pipeline.engine.distributed.parallel import World
from pipeline.engine.reporting.reporter import Reporter
from pipeline.utils.atomic import put_aside, write_text
from pipeline.utils.untrusted_files import Unreadable, parse_json, read_bytes

NAME = "replaced.jsonl"
Row = Mapping[str, Any]


class ReplacedImages:
    """What the loaders of all ranks found (data.on_bad=replace), listed in `folder` by the leader.

    A row: split, index (position in it), file, class, shown (the file shown instead), reason.
    """

    def __init__(self, loaders: Iterable[Loader], world: World, folder: Path, reporter: Reporter) -> None:
        self._loaders, self._world, self._reporter = list(loaders), world, reporter
        self._path = folder / NAME
        self._rows = _by_place(self._read()) if world.leader else {}

    def __len__(self) -> int:
        """Images listed so far; on the leader."""
        return len(self._rows)

    def settle(self, publish: Callable[[Callable[[], object]], None]) -> None:
        """Adds what is new, ordered by split and position. All ranks call it; `publish` has the leader write."""
        found = [row for loader in self._loaders for row in loader.replaced.values()]
        gathered = _by_place(row for rows in self._world.gather(found) for row in rows)
        new = {place: gathered[place] for place in sorted(gathered) if place not in self._rows}
        self._rows |= new
        publish(lambda: self._write() if new else None)
        if new:
            self._reporter.note(f"{len(new)} images cannot be read and are replaced, {len(self)} in all: {self._path}")

    def _write(self) -> None:
        write_text(self._path, "".join(json.dumps(dict(row)) + "\n" for row in self._rows.values()))

    def _read(self) -> list[Row]:
        """What is listed. A file with other lines is kept under another name, but for a last one that was cut."""
        if not os.path.lexists(self._path):
            return []
        try:
            whole, _, rest = read_bytes(self._path).rpartition(b"\n")
        except Unreadable:
            whole, rest = b"?", b""
        rows = [row for line in whole.splitlines() if (row := _row(line)) is not None]
        if len(rows) < len(whole.splitlines()):
            self._reporter.note(f"{self._path} holds lines that are no rows of it: kept as {put_aside(self._path)}")
        return [*rows, *(row for row in (_row(rest),) if row is not None)]


def _row(line: bytes) -> Row | None:
    try:
        row = parse_json(line, NAME)
    except Unreadable:
        return None
    known = isinstance(row, dict) and isinstance(row.get("split"), str) and isinstance(row.get("index"), int)
    return row if known else None


def _by_place(rows: Iterable[Row]) -> dict[tuple[str, int], Row]:
    return {(row["split"], row["index"]): row for row in rows}
