"""Loss, top-1 and learning rate over the epochs of all runs."""

from collections.abc import Callable
from typing import Any

from pipeline.pictures import PICTURES, Nothing, Picture
from pipeline.pictures.material import Material
from pipeline.pictures.style import WIDTH_INCHES, colour, dash, drawing, legend_below, legend_inches, quiet

PANELS: tuple[tuple[str, str, Callable[[dict[str, Any]], Any]], ...] = (
    ("Test top-1", "top-1 (%)", lambda record: record.get("test_top1")),
    ("Training top-1", "top-1 (%)", lambda record: record.get("train_top1")),
    ("Training loss", "loss (sum of the method's terms)", lambda record: record.get("train_loss")),
    ("Learning rate", "learning rate", lambda record: record.get("lr")),
)
FEW = 12  # epochs whose points are marked


def draw(material: Material) -> Any:
    """A matplotlib Figure of four panels; one colour a group, one line a seed. Raises Nothing where no epoch ended."""
    # With the place that each group has in all pictures, and so its colour.
    shown = [(k, group) for k, group in enumerate(material.groups) if any(run.epochs for run in group.runs)]
    if not shown:
        raise Nothing("no run has finished an epoch")
    labels = [f"{group.label} ({len(group.runs)} seeds)" if len(group.runs) > 1 else group.label for _, group in shown]
    with drawing() as pyplot:
        height = 5.6 + legend_inches(labels)
        figure, axes = pyplot.subplots(2, 2, figsize=(WIDTH_INCHES, height), layout="constrained")
        lines = []
        for axis, (title, unit, value_of) in zip(axes.flat, PANELS, strict=True):
            lines = [_lines(axis, group.runs, index, value_of) for index, group in shown]
            axis.set(title=title, xlabel="epoch", ylabel=unit)
            axis.xaxis.get_major_locator().set_params(integer=True)
            quiet(axis)
        figure.get_layout_engine().set(h_pad=0.1)
        axes[1, 1].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        legend_below(figure, lines, labels)
        return figure


def _lines(axis: Any, runs: Any, index: int, value_of: Callable[[dict[str, Any]], Any]) -> Any:
    line = None
    for run in runs:
        points = [(r["epoch"], value_of(r)) for r in run.epochs if value_of(r) is not None]
        mark = "o" if len(points) <= FEW else None
        thin = 1.6 if len(runs) == 1 else 1.0
        look = {"color": colour(index), "linestyle": dash(index), "linewidth": thin, "alpha": 0.9}
        (line,) = axis.plot(*zip(*points, strict=True) if points else ((), ()), marker=mark, markersize=3.5, **look)
        if not run.finished and points:
            axis.plot(*points[-1], marker="o", markersize=7, markerfacecolor="white", color=colour(index), zorder=3)
    return line


PICTURES.register("curves")(
    Picture(
        title="Training curves",
        about="One colour for runs that differ by their seed only, one line a run. An open circle ends a run that is "
        "not finished. The loss is the sum of a method's own terms: compare its course, not its height, between "
        "methods. Training top-1 is that of the student's own classifier, also where a method (SimKD) predicts through "
        "another one and leaves this one untrained.",
        draw=draw,
        order=1,
    )
)
