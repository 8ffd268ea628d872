"""A table as Markdown, LaTeX, CSV or HTML. Names are escaped: they come from files of others."""

import csv
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from launch.tables.rows import Row
from pipeline.run_folder.spread import spread_text
from pipeline.utils.pages import render

LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "−": "$-$", "–": "--"},
}
PAGE = Path(__file__).with_name("page.html")
NAMES = ("pair", "method", "variant", "recipe", "settings")
NUMBERS = ("n", "last", "best", "published")
COLUMNS = (*NAMES, *NUMBERS, "source", "difference")
RIGHT = {*NUMBERS, "difference"}


@dataclass(frozen=True)
class Cell:
    """Plain text; bold: a marked difference; notes: numbers of notes below."""

    text: str
    bold: bool = False
    notes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Part:
    """The table of one data set."""

    name: str
    columns: tuple[str, ...]
    rows: list[list[Cell]]
    notes: list[str]


@dataclass(frozen=True)
class Report:
    """All parts, then lists of lines under a heading each."""

    title: str
    rows: list[Row]
    lists: dict[str, list[str]]

    def parts(self) -> list[Part]:
        """One for each data set; a column that is empty in all its rows is left out."""
        return [
            _part(name, [r for r in self.rows if r.dataset == name]) for name in _unique(r.dataset for r in self.rows)
        ]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _part(name: str, rows: list[Row]) -> Part:
    notes = _unique(note for row in rows for note in row.notes)
    known = any(row.figure for row in rows)
    needed = {"settings": any(row.settings for row in rows), "source": known or bool(notes)}  # notes stand there
    needed |= dict.fromkeys(("published", "difference"), known)
    columns = tuple(c for c in COLUMNS if needed.get(c, True))
    return Part(name, columns, [[_cell(row, column, notes) for column in columns] for row in rows], notes)


def _cell(row: Row, column: str, notes: list[str]) -> Cell:
    figure = row.figure
    if column == "published":
        return Cell(spread_text((figure.top1, figure.deviation) if figure else None))
    if column == "source":
        epoch = figure and (figure.reports or "epoch not stated")
        return Cell(f"{figure.title}, {epoch}" if figure else "–", notes=tuple(notes.index(n) + 1 for n in row.notes))
    if column == "difference":
        text = "–" if row.difference is None or figure is None else f"{_signed(row.difference)} ({figure.compared})"
        return Cell(text, bold=row.marked)
    if column == "n":
        return Cell(str(len(row.seeds)))
    value = getattr(row, column)
    return Cell(value if isinstance(value, str) else spread_text(value))


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _refs(cell: Cell, escape: Callable[[str], str], pattern: str) -> str:
    shown = ", ".join(map(str, cell.notes))
    return escape(cell.text) + (pattern.format(shown) if shown else "")


def escape_markdown(text: str) -> str:
    """`text` with no meaning to Markdown, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split())).replace("&", "&amp;")


def escape_latex(text: str) -> str:
    """`text` with no meaning to LaTeX, on one line."""
    return "".join(LATEX.get(c, c) for c in " ".join(text.split()))


def markdown(report: Report) -> str:
    """Pipe tables, one for each data set."""
    lines = [f"# {escape_markdown(report.title)}"]
    for part in report.parts():
        rule = ["---:" if c in RIGHT else "---" for c in part.columns]
        lines += ["", f"## {escape_markdown(part.name)}", "", _piped(part.columns), _piped(rule)]
        for row in part.rows:
            texts = [_refs(cell, escape_markdown, " [{}]") for cell in row]
            lines.append(_piped(f"**{t}**" if c.bold else t for c, t in zip(row, texts, strict=True)))
        lines += ["", *(f"{k}. {escape_markdown(note)}" for k, note in enumerate(part.notes, 1))]
    for heading, items in report.lists.items():
        lines += ["", f"**{escape_markdown(heading)}**", "", *(f"- {escape_markdown(item)}" for item in items)]
    return "\n".join(lines).rstrip() + "\n"


def _piped(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def latex(report: Report) -> str:
    """tabulars in table environments, to be \\input; no package needed."""
    lines = []
    for part in report.parts():
        shape = "".join("r" if c in RIGHT else "l" for c in part.columns)
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{escape_latex(f'{report.title}, {part.name}')}}}"]
        lines += [rf"\begin{{tabular}}{{{shape}}}", r"\hline", " & ".join(part.columns) + r" \\", r"\hline"]
        for row in part.rows:
            texts = [_refs(cell, escape_latex, "$^{{{}}}$") for cell in row]
            bold = (rf"\textbf{{{t}}}" if c.bold else t for c, t in zip(row, texts, strict=True))
            lines.append(" & ".join(bold) + r" \\")
        lines += [r"\hline", r"\end{tabular}"]
        lines += [rf"\par\footnotesize $^{{{k}}}$ {escape_latex(note)}" for k, note in enumerate(part.notes, 1)]
        lines += [r"\end{table}", ""]
    for heading, items in report.lists.items():
        lines += [rf"\paragraph{{{escape_latex(heading)}}}", r"\begin{itemize}"]
        lines += [rf"\item {{}}{escape_latex(item)}" for item in items] + [r"\end{itemize}", ""]
    return "\n".join(lines).rstrip() + "\n"


def page(report: Report) -> str:
    """One HTML page that needs nothing else."""
    return render(PAGE, title=report.title, parts=report.parts(), lists=report.lists, right=RIGHT)


def comma_separated(report: Report) -> str:
    """One line a row, all numbers in columns of their own; what is missing is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    spreads = ("last_mean", "last_std", "best_mean", "best_std")
    writer.writerow(["dataset", *NAMES, "n", "seeds", *spreads, "published", "published_std", "source", "table",
                     "reports", "compared", "difference", "marked", "notes"])  # fmt: skip
    for row in report.rows:
        f = row.figure
        beside = [f.top1, f.deviation, f.source, f.table, f.reports, f.compared] if f else [None] * 6
        numbers = [*(row.last or (None, None)), *(row.best or (None, None)), *beside, row.difference]
        plain = [f"{v:.4f}" if isinstance(v, float) else v for v in numbers]
        names = [row.dataset, *(getattr(row, name) for name in NAMES)]
        seeds = " ".join(map(str, row.seeds))
        writer.writerow([*names, len(row.seeds), seeds, *plain, int(row.marked), "; ".join(row.notes)])
    return text.getvalue()


FORMATS: dict[str, Callable[[Report], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
    "html": page,
}
