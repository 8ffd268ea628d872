"""What every run does: a line each, drawn again on a terminal until q or Ctrl-C.

python launch/status.py [FOLDERS...] [live=false] [every=5] [format=table|json]

FOLDERS are run folders, or folders that hold many; default runs.
"""

import json
import sys
from pathlib import Path
from typing import Literal

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from launch.monitor.rows import as_json, collect
from launch.monitor.screen import print_plain, show_live
from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import Section, key
from pipeline.config.words import keys_and_paths

STATES = """
states: waiting    submitted, not started yet
        running    a job, or a process of this machine, trains it
        requeued   stopped by pre-emption, a time limit or a failure, and submitted again by itself
        done       all epochs; summary.json is there
        stopped    nobody works on it; the same command goes on from its checkpoint
        failed     ended without a result; why is in the last column
        unknown    the scheduler does not answer, or the folder cannot be read"""


class StatusConfig(Section):
    """Keys of launch/status.py."""

    live: bool = key(True, "on a terminal: draw again every `every` seconds; false: once", affects="log")
    every: float = key(5.0, "seconds", affects="log", ge=0.2, le=86400)
    format: Literal["table", "json"] = key("table", "json: all figures, for scripts; never live", affects="log")


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", StatusConfig, STATES)


def main(argv: list[str]) -> None:
    """The command line."""
    keys, given = keys_and_paths(argv)
    config, folders = compose(StatusConfig, keys), given or [Path("runs")]
    if config.format == "json":
        print(json.dumps(as_json(collect(folders)), indent=2))
    elif config.live and sys.stdout.isatty():
        show_live(lambda: collect(folders), config.every)
    else:
        print_plain(collect(folders))


if __name__ == "__main__":
    cli.run(main, help_text, {})
