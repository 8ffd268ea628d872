"""Rows of runs for people: a plain table, or one that stays on the terminal and is drawn again."""

import contextlib
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from launch.monitor.rows import STATES, URGENT, Row, total
from pipeline import signals
from pipeline.engine.reporting.reporter import clock_text

COLOURS = {"running": "cyan", "done": "green", "failed": "bold red", "requeued": "yellow", "unknown": "magenta"}
AROUND = 5  # lines of the screen that are no rows: heading, rule, what is left out, total, the prompt
LONGEST, LEAST_REASON, LEAST_NAME, GAP = 110, 30, 14, 2  # characters
LEFT, RIGHT = ("run", "state"), ("epoch", "last", "best", "images/s", "left", "restarts", "job")


def printable(text: str) -> str:
    """Without control characters: names and messages come from files of others, and a terminal obeys them."""
    return "".join(c if c.isprintable() else "?" for c in text)


def shorten(text: str, most: int) -> str:
    """`text`, cut at its end where it is longer; format=json has all of it."""
    return text if len(text) <= most else f"{text[: max(most - 1, 0)]}…"


def cells(row: Row) -> list[str]:
    """The row's text, a dash where nothing is known."""
    return [
        printable(row.name),
        row.state,
        f"{row.epoch}/{row.epochs}" if row.epochs else "-",
        "-" if row.top1_last is None else f"{row.top1_last:.2f}",
        "-" if row.top1_best is None else f"{row.top1_best:.2f}",
        "-" if not row.images_per_second else f"{row.images_per_second:.0f}",
        "-" if row.seconds_left is None else clock_text(row.seconds_left),
        str(row.restarts),
        row.job or "-",
        shorten(printable(row.reason), LONGEST),
    ]


def widths(lines: Sequence[Sequence[str]], width: int) -> tuple[int, int]:
    """(characters for the name, for the reason) on a screen that is `width` wide: these two give way."""
    longest = [max(map(len, column)) for column in zip((*LEFT, *RIGHT, ""), *lines, strict=True)]
    room = width - sum(longest[1:-1]) - GAP * len(longest)
    name = min(longest[0], max(room - min(longest[-1], LEAST_REASON), LEAST_NAME))
    return name, max(room - name, 0)


def table(rows: Sequence[Row], width: int | None = None) -> Table:
    """A line a run. width: of the screen, None = as wide as it takes."""
    lines = [cells(row) for row in rows]
    if width is not None and lines:
        first, last = widths(lines, width)
        lines = [[_end_of(line[0], first), *line[1:-1], shorten(line[-1], last)] for line in lines]
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
    reasons = any(line[-1] for line in lines)
    for column in (*LEFT, *RIGHT, "")[: None if reasons else -1]:
        made.add_column(column, justify="right" if column in RIGHT else "left", no_wrap=True)
    for name, state, *others in lines if reasons else [line[:-1] for line in lines]:
        made.add_row(Text(name), Text(state, style=COLOURS.get(state, "")), *map(Text, others))
    return made


def _end_of(name: str, most: int) -> str:
    """Of a name the end says more than the beginning."""
    return name if len(name) <= most else f"…{name[len(name) - most + 1 :]}"


def total_text(rows: Sequence[Row]) -> str:
    """'6 runs: 2 done, 1 running, 3 waiting'."""
    counted = total(rows)
    runs = counted.pop("runs")
    for state in ("done", "running", "waiting", "failed"):
        counted.setdefault(state, 0)
    shown = ", ".join(f"{counted[state]} {state}" for state in STATES if state in counted)
    return f"{runs} run{'s' if runs != 1 else ''}: {shown}"


def print_plain(rows: Sequence[Row]) -> None:
    """The table without escape codes, as wide as it needs."""
    wide = Console(width=10_000, color_system=None, force_terminal=False, highlight=False)
    with wide.capture() as captured:
        wide.print(table(rows))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    print("\n".join([*(lines if rows else []), total_text(rows)]))


def screen(rows: Sequence[Row], width: int, height: int) -> Group:
    """As many rows as the screen has lines, those first on which something happens or should; the total."""
    room = max(height - AROUND, 1)
    shown = list(rows)
    if len(rows) > room:
        first = sorted(range(len(rows)), key=lambda k: (URGENT.index(rows[k].state), k))[:room]
        shown = [rows[k] for k in sorted(first)]
    below = [Text(f"and {len(rows) - len(shown)} more", style="dim")] if len(shown) < len(rows) else []
    return Group(table(shown, width), *below, Text(total_text(rows), style="bold"))


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], bool]]:
    """A function that waits for some seconds and says whether q was pressed meanwhile."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    tty.setcbreak(handle)
    try:
        yield _pressed
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _pressed(seconds: float) -> bool:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            typed = sys.stdin.read(1)
            if typed in ("q", "Q", ""):
                return True
    return False


def show_live(read: Callable[[], Sequence[Row]], every: float) -> None:
    """Draws the table every `every` seconds until q or Ctrl-C."""
    console = Console()
    live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
    try:
        with keyboard() as quit_pressed, live:
            live.update(screen(read(), *console.size), refresh=True)
            while not quit_pressed(every):
                live.update(screen(read(), *console.size), refresh=True)
    except KeyboardInterrupt:
        return
    except signals.Stopped as stopped:
        if stopped.number != signal.SIGINT:
            raise
