"""The table of run folders: rows, what is missing, where the published figures stand."""

from pathlib import Path

from launch.tables.formats import Report
from launch.tables.published import read_published
from launch.tables.rows import gaps, make_rows, source_text
from launch.tables.runs import find_folders, group, read_run

MARK = (
    "difference: ours minus published, of the epoch in brackets; bold where it exceeds twice the standard error of our "
    "mean (with the published deviation, if any)"
)


def make_report(folders: list[Path], against: str | None = None, title: str = "Top-1") -> Report:
    """The table of the runs at or below `folders`. Raises InputError."""
    published = read_published()
    groups, repeated = group(read_run(folder) for folder in find_folders(folders))
    rows = make_rows(groups, published, against)
    used = dict.fromkeys(row.figure.source for row in rows if row.figure)
    lists = {
        "Missing": gaps(groups),
        "Left out": repeated,
        "Published figures": [source_text(published.sources[name]) for name in used],
        "Reading the table": [MARK] if used else [],
    }
    return Report(title, rows, {heading: lines for heading, lines in lists.items() if lines})
