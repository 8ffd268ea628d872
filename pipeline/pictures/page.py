"""The report: one HTML file that holds everything it shows, and asks no network for anything."""

import base64
import html
import io
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.pictures.style import GRID, INK, MUTED, WIDTH_INCHES, drawing
from pipeline.run_folder.groups import Group, RunRecord

IMAGES = (".png", ".svg")
PAGES = (".html",)
DPI = 150
PAGE_PX = 930  # of the text, and of a picture of the usual width
STYLE = f"""
body {{ font: 15px/1.5 system-ui, sans-serif; color: {INK}; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem; }}
p, li {{ color: {MUTED}; max-width: 50rem; }}
img {{ max-width: 100%; height: auto; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid {GRID}; white-space: nowrap; }}
td.n, th.n {{ text-align: right; font-variant-numeric: tabular-nums; }}
"""
HEAD = ("runs", "seed", "epochs", "top-1 last (%)", "top-1 best (%)", "images/s", "folder")


def saved(figure: Any, suffix: str) -> bytes:
    """The figure as a PNG or SVG file, the same bytes for the same figure; closes it."""
    buffer, form = io.BytesIO(), suffix.removeprefix(".")
    with drawing() as pyplot:
        figure.savefig(buffer, format=form, dpi=DPI, metadata={"Date": None} if form == "svg" else {})
        pyplot.close(figure)
    return buffer.getvalue()


def section(title: str, about: str, content: str) -> str:
    """A heading, its text, and `content`, which is HTML; the rest is escaped here."""
    return f"<h2>{html.escape(title)}</h2>\n<p>{html.escape(about)}</p>\n{content}\n"


def picture(png: bytes, title: str) -> str:
    """An image inside the page."""
    data = base64.b64encode(png).decode()
    width = round(int.from_bytes(png[16:20]) * PAGE_PX / (WIDTH_INCHES * DPI))  # letters of one size in all pictures
    return f'<img alt="{html.escape(title, quote=True)}" width="{width}" src="data:image/png;base64,{data}">'


def absent(reason: str) -> str:
    """What stands in place of a picture that has nothing to show."""
    return f"<p><strong>Not drawn:</strong> {html.escape(reason)}</p>"


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def results(groups: Sequence[Group]) -> str:
    """Mean and sample standard deviation over the seeds, one line a group; runs on their way do not count."""
    rows = []
    for group in groups:
        done = [run for run in group.runs if not run.unfinished]
        figures = [_spread([run.top1 for run in done], ".2f"), _spread([run.best for run in done], ".2f")]
        rows.append([group.label, str(len(done)), *figures, _spread([run.speed for run in done], ",.0f")])
    return _table(("runs", "seeds", *HEAD[3:6]), slice(1, None), rows)


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = format(statistics.mean(known), form)
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):{form}}"


def _row(label: str, run: RunRecord, top: str) -> list[str]:
    done = f"{len(run.epochs)} of {run.keys.get('optim.epochs')}" if run.unfinished else str(len(run.epochs))
    figures = [_number(run.top1, ".2f"), _number(run.best, ".2f"), _number(run.speed, ",.0f")]
    return [label, str(run.keys.get("seed")), done, *figures, os.path.relpath(run.folder.absolute(), top)]


def table(groups: Sequence[Group]) -> str:
    """All runs, one line each; folders relative to the one that holds them all."""
    runs = [(group.label, run) for group in groups for run in group.runs]
    top = os.path.commonpath([run.folder.absolute().parent for _, run in runs])
    return _table(HEAD, slice(1, 6), [_row(label, run, top) for label, run in runs])


def _table(head: Sequence[str], numbers: slice, rows: Sequence[Sequence[str]]) -> str:
    right = range(len(head))[numbers]

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(
            f"<{tag}{' class=n' if at in right else ''}>{html.escape(cell)}</{tag}>" for at, cell in enumerate(cells)
        )

    lines = "\n".join([line("th", head), *(line("td", row) for row in rows)])
    return f'<div class="wide"><table>\n{lines}\n</table></div>'


def page(title: str, remarks: Sequence[str], body: str) -> str:
    """The whole document. remarks: lines above everything."""
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in remarks)
    notes = f"<ul>{notes}</ul>" if notes else ""
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing is loaded, whatever a name of a run says.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{name}</h1>\n{notes}\n{body}</body></html>\n"
    )


def suffix_of(out: str) -> str:
    """Of the file to write, in lower case."""
    return Path(out).suffix.lower()
