"""A bar chart of images/s: loaders beside the yardstick, the decode limit drawn in; the step's parts below."""

import importlib.util
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.contracts import InputError
from pipeline.measure.decode import MEANINGS
from pipeline.measure.rounds import SPEED

SUFFIXES = (".png", ".svg", ".pdf")
OURS, THEIRS, LIMIT, INK, MUTED = "#2a6f97", "#9aa5b1", "#c8553d", "#1f2933", "#52606d"
REASON = 70  # characters
BAR_INCHES, MARGIN_INCHES = 0.42, 1.15  # of height
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # of a label, where the limit's line would cross it
Bars = dict[str, tuple[Mapping[str, Any], str]]  # row and colour by label


def check_plot(path: str | None) -> None:
    """Raises InputError for a suffix that cannot be drawn, or without matplotlib."""
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"plot={path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("plot= needs matplotlib: pip install 'stillhouse[plot]', or leave plot= out")


def draw(report: Mapping[str, Any], path: str) -> None:
    """Draws what the report holds, as the suffix says. Raises InputError when the file cannot be written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {title: bars for title, bars in _panels(report).items() if bars}
    heights = [MARGIN_INCHES + BAR_INCHES * len(bars) for bars in panels.values()]
    with pyplot.rc_context({"font.size": 9, "text.color": INK, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=(8, sum(heights) + 0.5), height_ratios=heights, squeeze=False, layout="constrained"
        )
        for axis, (title, bars) in zip(axes[:, 0], panels.items(), strict=True):
            _panel(axis, title, bars)
        if report["decode_limit"] and report["loaders"]:
            _limit(axes[0, 0], report["decode_limit"])
        figure.supxlabel(_foot(report), fontsize=8, color=MUTED, x=0.01, ha="left")
        try:
            figure.savefig(path, dpi=150)
        except OSError as error:
            raise InputError(f"plot={path}: {error.strerror}") from None
        finally:
            pyplot.close(figure)


def _panels(report: Mapping[str, Any]) -> dict[str, Bars]:
    """Bars by title; the first panel is the one of loaders, where there are any."""
    loaders: Bars = {name: (row, OURS) for name, row in report["loaders"].items()}
    if report["yardstick"]:
        loaders["torchvision\n(yardstick)"] = (report["yardstick"], THEIRS)
    for name, reason in report["unavailable"].items():
        loaders[name] = ({SPEED: 0.0, "spread": [0.0, 0.0], "reason": reason}, THEIRS)
    limit = (report["decode_limit"] or {}).get("rows", {})
    decoding = {f"{MEANINGS[row['decoder']]}, {row['processes']} proc.": (row, OURS) for row in limit.values()}
    step = {name: (row, OURS) for name, row in (report["step"] or {}).items()}
    whole = {f"whole, {name}": (row, OURS) for name, row in (report["train"] or {}).items()}
    return {
        "Loaders": loaders,
        "The step on batches that lie ready, and the whole training": step | whole,
        "JPEG decoding alone": decoding if not loaders else {},
    }


def _panel(axis: Any, title: str, bars: Bars) -> None:
    speeds = [row[SPEED] for row, _ in bars.values()]
    spread = [
        [max(0.0, row[SPEED] - row["spread"][0]) for row, _ in bars.values()],
        [max(0.0, row["spread"][1] - row[SPEED]) for row, _ in bars.values()],
    ]
    colours = [colour for _, colour in bars.values()]
    axis.barh(range(len(bars)), speeds, 0.62, color=colours, xerr=spread, error_kw={"ecolor": INK, "elinewidth": 0.9})
    ends = [row["spread"][1] for row, _ in bars.values()]
    for at, ((row, _), end) in enumerate(zip(bars.values(), ends, strict=True)):
        ink = MUTED if "reason" in row else INK
        axis.annotate(_label(row), (end, at), (5, 0), textcoords="offset points", va="center", color=ink, bbox=BEHIND)
    axis.set_yticks(range(len(bars)), list(bars))
    axis.invert_yaxis()
    axis.set_xlim(0, 1.3 * max(ends, default=0) or 1)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=16 if title == "Loaders" else 6)
    axis.set_xlabel("images/s: median, range of the rounds", color=MUTED)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.grid(True, color="#e4e7eb", linewidth=0.8)
    axis.set_axisbelow(True)


def _label(row: Mapping[str, Any]) -> str:
    if "reason" in row:
        return textwrap.shorten(row["reason"], REASON)
    speed = f"{row[SPEED]:,.0f}" if row[SPEED] >= 100 else f"{row[SPEED]:.3g}"
    return f"{speed}  (x {row['ratio']:.2f})" if row.get("ratio") is not None else speed


def _limit(axis: Any, limit: Mapping[str, Any]) -> None:
    """A line through the loaders' panel, widened where the limit lies beyond the bars."""
    speed = limit[SPEED]
    axis.set_xlim(0, max(axis.get_xlim()[1], 1.15 * speed))
    axis.axvline(speed, color=LIMIT, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3)
    axis.annotate(
        f"decode limit {speed:,.0f} (whole files, {limit['workers']} processes)",
        (speed, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if speed > 0.5 * axis.get_xlim()[1] else "left",
        color=LIMIT,
        fontsize=8,
    )


def _foot(report: Mapping[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    device = ", ".join(machine["gpus"][:1]) if machine["device"] == "cuda" else machine["cpu"] or "CPU"
    return (
        f"{report['dataset']}, {report['image_size']} px, batch {report['batch_size']}, {report['workers']} workers, "
        f"{report['rounds']} round(s); {device}, {machine['cores']} cores; torch {versions.get('torch')}"
    )
