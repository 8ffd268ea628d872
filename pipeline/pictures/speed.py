"""Accuracy against training speed, one point a run."""

from typing import Any

from pipeline.pictures import PICTURES, Nothing, Picture
from pipeline.pictures.material import Material
from pipeline.pictures.style import (
    WIDTH_INCHES,
    colour,
    drawing,
    legend_below,
    legend_inches,
    limits,
    marker,
    quiet,
)


def draw(material: Material) -> Any:
    """A matplotlib Figure: images/s to the right, top-1 of the last epoch upwards. Raises Nothing before an epoch."""
    found = [
        (index, group.label, [run for run in group.runs if run.top1 is not None and run.speed is not None])
        for index, group in enumerate(material.groups)
    ]
    shown = [(index, label, runs) for index, label, runs in found if runs]
    if not shown:
        raise Nothing("no run has an evaluated epoch")
    labels = [label for _, label, _ in shown]
    with drawing() as pyplot:
        size = (WIDTH_INCHES, 3.8 + legend_inches(labels))
        figure, axis = pyplot.subplots(figsize=size, layout="constrained")
        handles = []
        for index, _, runs in shown:
            look = {"marker": marker(index), "edgecolors": colour(index), "linewidths": 1.6, "s": 62, "zorder": 3}
            for run in runs:
                fill = colour(index) if run.finished else "white"
                axis.scatter([run.speed], [run.top1], facecolors=fill, alpha=0.9, **look)
            handles.append(axis.scatter([], [], facecolors=colour(index), **look))
        axis.set(
            title="Accuracy against training speed (better: up and to the right)", xlabel="training speed (images/s)"
        )
        axis.set_ylabel("test top-1 after the last epoch (%)")
        axis.set_xlim(0.0, limits([0.0, *(run.speed or 0.0 for _, _, runs in shown for run in runs)])[1])
        axis.set_ylim(*limits([run.top1 or 0.0 for _, _, runs in shown for run in runs], share=0.15, least=1.0))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        quiet(axis)
        legend_below(figure, handles, labels)
        return figure


PICTURES.register("speed")(
    Picture(
        title="Accuracy against speed",
        about="Images per second of the whole training, evaluation left out. Speeds compare only between runs of one "
        "machine with nothing else on it. Open points are runs that are not finished.",
        draw=draw,
        order=2,
    )
)
