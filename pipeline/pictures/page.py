"""The report: one HTML file that holds everything it shows, and asks no network for anything."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.pictures.style import GRID, INK, MUTED, WIDTH_INCHES, drawing
from pipeline.run_folder.groups import RunGroup
from pipeline.run_folder.record import RunRecord
from pipeline.run_folder.spread import mean_std, spread_text
from pipeline.utils.pages import render

IMAGES = (".png", ".svg")
PAGES = (".html",)
DPI = 150
PAGE_PX = 930  # of the text, and of a picture of the usual width
TEMPLATE = Path(__file__).with_name("page.html")
HEAD = ("runs", "seed", "epochs", "top-1 last (%)", "top-1 best (%)", "images/s", "folder")


def saved(figure: Any, suffix: str) -> bytes:
    """The figure as a PNG or SVG file, the same bytes for the same figure; closes it."""
    buffer, form = io.BytesIO(), suffix.removeprefix(".")
    with drawing() as pyplot:
        figure.savefig(buffer, format=form, dpi=DPI, metadata={"Date": None} if form == "svg" else {})
        pyplot.close(figure)
    return buffer.getvalue()


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page. data: base64; width: of the picture on the page, in pixels."""

    data: str
    width: int


@dataclass(frozen=True)
class Table:
    """A line of names, then rows of text. right: places of the columns that hold numbers."""

    head: Sequence[str]
    right: range
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and its text, above a picture, the reason why there is none, or a table."""

    title: str
    about: str
    picture: Picture | None = None
    missing: str = ""
    table: Table | None = None


def picture(png: bytes) -> Picture:
    """The picture that a PNG file holds."""
    width = round(int.from_bytes(png[16:20]) * PAGE_PX / (WIDTH_INCHES * DPI))  # letters of one size in all pictures
    return Picture(base64.b64encode(png).decode(), width)


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def results(groups: Sequence[RunGroup]) -> Table:
    """Mean and sample standard deviation over the seeds, one line a group; runs on their way do not count."""
    rows = []
    for group in groups:
        done = group.done
        figures = [([run.top1 for run in done], ".2f"), ([run.best for run in done], ".2f")]
        figures += [([run.speed for run in done], ",.0f")]
        texts = [spread_text(mean_std(values), form, nothing="-") for values, form in figures]
        rows.append([group.label, str(len(done)), *texts])
    return Table(("runs", "seeds", *HEAD[3:6]), range(1, 5), rows)


def _row(label: str, run: RunRecord, top: str) -> list[str]:
    done = f"{len(run.epochs)} of {run.config.optim.epochs}" if not run.finished else str(len(run.epochs))
    figures = [_number(run.top1, ".2f"), _number(run.best, ".2f"), _number(run.speed, ",.0f")]
    return [label, str(run.config.seed), done, *figures, os.path.relpath(run.folder.absolute(), top)]


def table(groups: Sequence[RunGroup]) -> Table:
    """All runs, one line each; folders relative to the one that holds them all."""
    runs = [(group.label, run) for group in groups for run in group.runs]
    top = os.path.commonpath([run.folder.absolute().parent for _, run in runs])
    return Table(HEAD, range(1, 6), [_row(label, run, top) for label, run in runs])


def page(title: str, remarks: Sequence[str], sections: Sequence[Section]) -> str:
    """The whole document. remarks: lines above everything."""
    colours = {"ink": INK, "muted": MUTED, "grid": GRID}
    return render(TEMPLATE, title=title, remarks=remarks, sections=sections, **colours)


def suffix_of(out: str) -> str:
    """Of the file to write, in lower case."""
    return Path(out).suffix.lower()
