"""Runs as a table: mean +- std over seeds, last and best epoch apart, beside the published figure and its source.

python launch/table.py RUNS... [format=markdown|latex|csv|html] [out=FILE] [against=SOURCE] [title=TEXT]

RUNS are run folders, or folders that hold many.
"""

import sys
from pathlib import Path
from typing import Literal

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from launch.tables.formats import FORMATS
from launch.tables.published import read_published
from launch.tables.report import make_report
from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import PathText, Section, Text, key
from pipeline.config.words import keys_and_paths
from pipeline.contracts import InputError, unwritten
from pipeline.utils.atomic import write_text

SUFFIXES = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".html": "html"}


class TableConfig(Section):
    """Keys of launch/table.py."""

    format: Literal["markdown", "latex", "csv", "html"] | None = key(
        None, "default that of out's suffix, or markdown", affects="log"
    )
    out: PathText | None = key(None, "file to write; default standard output", affects="place")
    against: Text | None = key(
        None, "source or table of configs/published.yaml; default that of the run's recipe", affects="log"
    )
    title: Text = key("Top-1 on the test set, per cent", "heading", affects="log")


def help_text() -> str:
    """What --help prints."""
    sources = ", ".join(read_published().sources)
    return describe(__doc__ or "", TableConfig, f"\nsources: {sources}")


def main(argv: list[str]) -> None:
    """The command line."""
    keys, folders = keys_and_paths(argv)
    config = compose(TableConfig, keys)
    if not folders:
        raise InputError("no run folder: python launch/table.py RUNS...")
    out = Path(config.out) if config.out else None
    chosen = config.format or (SUFFIXES.get(out.suffix.lower(), "markdown") if out else "markdown")
    report = make_report(folders, config.against, config.title)
    text = FORMATS[chosen](report).encode(errors="backslashreplace").decode()  # names of folders may be no UTF-8
    if out is None:
        print(text, end="")
        return
    try:
        write_text(out, text)
    except OSError as error:
        raise unwritten(f"cannot write {out}", error) from None
    print(f"{len(report.rows)} rows, {sum(len(r.seeds) for r in report.rows)} runs: {out}")


if __name__ == "__main__":
    cli.run(main, help_text, {})
