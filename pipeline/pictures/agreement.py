"""How often a student says what its teacher says, and how far its probabilities are from the teacher's."""

from typing import Any

import numpy as np

from pipeline.pictures import PICTURES, Nothing, Picture
from pipeline.pictures.material import Array, Material, Outputs
from pipeline.pictures.style import INK, MUTED, WIDTH_INCHES, colour, drawing, quiet

BAR_INCHES, MARGIN_INCHES = 0.34, 1.2


def agreement(student: Outputs, teacher: Outputs) -> float:
    """Per cent of images to which both give the same class, right or wrong (top-1 agreement)."""
    return float(100 * (student.logits_NK.argmax(1) == teacher.logits_NK.argmax(1)).mean())


def divergence(student: Outputs, teacher: Outputs) -> float:
    """Mean KL(teacher || student) of the probabilities at temperature 1, in nats."""
    log_teacher_NK, log_student_NK = log_softmax(teacher.logits_NK), log_softmax(student.logits_NK)
    return float((np.exp(log_teacher_NK) * (log_teacher_NK - log_student_NK)).sum(1).mean())


def log_softmax(logits_NK: Array) -> Array:
    """In float64."""
    shifted_NK = logits_NK.astype(np.float64) - logits_NK.max(1, keepdims=True)
    result: Array = shifted_NK - np.log(np.exp(shifted_NK).sum(1, keepdims=True))
    return result


PANELS = (
    ("Top-1 agreement with the teacher", "images (%)", ".1f", agreement),
    ("KL from the teacher", "nats", ".3f", divergence),
)


def draw(material: Material) -> Any:
    """A matplotlib Figure: two bar charts, one bar a group, one dot a run. Raises Nothing without a teacher."""
    found = {label: pairs for label, pairs in ((g.label, _pairs(material, g.runs)) for g in material.groups) if pairs}
    if not found:
        material.taught()  # says why
        raise Nothing("no run has both a teacher and weights")
    with drawing() as pyplot:
        size = (WIDTH_INCHES, MARGIN_INCHES + BAR_INCHES * len(found))
        figure, axes = pyplot.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
        for axis, (title, unit, form, of) in zip(axes, PANELS, strict=True):
            values = [[of(*pair) for pair in pairs] for pairs in found.values()]
            _bars(axis, values, form)
            axis.set(title=title, xlabel=unit)
        axes[0].set_yticks(range(len(found)), list(found))
        axes[0].invert_yaxis()
        return figure


def _pairs(material: Material, runs: Any) -> list[tuple[Outputs, Outputs]]:
    pairs = []
    for run in runs:
        try:
            pairs.append((material.student(run), material.teacher(run)))
        except Nothing:
            continue
    return pairs


def _bars(axis: Any, values: list[list[float]], form: str) -> None:
    means = [float(np.mean(row)) for row in values]
    axis.barh(range(len(values)), means, 0.6, color=[colour(0)] * len(values))
    for at, (row, mean) in enumerate(zip(values, means, strict=True)):
        if len(row) > 1:
            axis.scatter(row, [at] * len(row), s=12, facecolors="white", edgecolors=INK, linewidths=0.8, zorder=3)
        places = (max(row), at)
        axis.annotate(format(mean, form), places, (5, 0), textcoords="offset points", va="center", color=INK)
    axis.set_xlim(0, 1.25 * max(max(row) for row in values) or 1)
    quiet(axis, "x")
    axis.spines["left"].set_color(MUTED)
    axis.tick_params(axis="y", length=0)


PICTURES.register("agreement")(
    Picture(
        title="Agreement with the teacher",
        about="Share of test images to which student and teacher give the same class, right or wrong; and the mean "
        "Kullback-Leibler divergence of the student's probabilities from the teacher's (temperature 1; smaller is "
        "closer). Bars are means over seeds, dots the runs.",
        draw=draw,
        order=3,
    )
)
