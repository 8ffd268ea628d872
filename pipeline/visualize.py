"""Pictures of runs: one as PNG or SVG, or all of them in one HTML file.

python pipeline/visualize.py runs=runs/cifar100 out=report.html
    a run folder or a folder of runs (a sweep); the file holds its images and needs no network
python pipeline/visualize.py runs=runs/a,runs/b out=curves.svg what=curves

Pictures but curves and speed run the networks on test images. Needs the extra [plot].
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pipeline import cli
from pipeline.config import describe
from pipeline.pictures import PICTURES
from pipeline.pictures.keys import VisualizeConfig, visualize_config
from pipeline.pictures.report import write_pictures


def main(argv: list[str]) -> None:
    """The command line."""
    write_pictures(visualize_config(argv))


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", VisualizeConfig, "\nPictures: " + ", ".join(PICTURES.names()))


if __name__ == "__main__":
    cli.run(main, help_text, {})
