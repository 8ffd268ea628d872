"""One look for all pictures: colours that colour-blind people tell apart (Okabe and Ito), quiet axes, legends below."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
# Okabe and Ito, 2008, without black and yellow, which are the text and too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
LEGEND_ROW_INCHES = 0.24
WIDTH_INCHES = 8.0
LEGEND_LETTERS = 95  # that a row of the legend holds


def colour(index: int) -> str:
    """Of the index-th line; they repeat after seven, when dashes change."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> Any:
    """Line style of the index-th line."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def marker(index: int) -> str:
    """Marker of the index-th group: a second difference beside its colour."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


@contextlib.contextmanager
def drawing() -> Iterator[Any]:
    """matplotlib.pyplot without a display, in our look; text of SVG files stays text, their ids do not change."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    look: Any = {
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": MUTED,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "svg.fonttype": "none",
        "svg.hashsalt": "stillhouse",
        "text.parse_math": False,  # a $ in the name of a run is a $
    }
    with pyplot.rc_context(look):
        yield pyplot


def quiet(axis: Any, grid: str = "both") -> None:
    """A light grid below the data, no frame above and on the right."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(True, axis=grid, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def legend_columns(labels: Sequence[str]) -> int:
    """How many labels fit side by side."""
    longest = max((len(label) for label in labels), default=1) + 6
    return max(1, min(4, len(labels), LEGEND_LETTERS // longest))


def legend_inches(labels: Sequence[str]) -> float:
    """Height that `legend_below` needs."""
    return LEGEND_ROW_INCHES * -(-len(labels) // legend_columns(labels)) + 0.2


def legend_below(figure: Any, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend under the axes, where it covers no data."""
    look = {"frameon": False, "handlelength": 3.4}  # long enough to show dashes beside a marker
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns(labels), **look)


def limits(values: Sequence[float], share: float = 0.08, least: float = 1.0) -> tuple[float, float]:
    """Axis limits around `values` with a margin of `share` of their range, which counts as `least` at least."""
    low, high = min(values), max(values)
    margin = share * max(high - low, least)
    return low - margin, high + margin
