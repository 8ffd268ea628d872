"""How far a student's logits are from its teacher's, class by class."""

from typing import Any

import numpy as np

from pipeline.pictures import PICTURES, Picture
from pipeline.pictures.material import Array, Material, Outputs
from pipeline.pictures.style import MUTED, drawing

PANELS, PANEL_INCHES = 4, 2.5
COLOURS = "cividis_r"  # readable in grey and for colour-blind people


def mean_logits(outputs: Outputs) -> Array:
    """[K, K]: row k is the mean of the logits of images of class k; zeros where a class has no image."""
    classes = outputs.logits_NK.shape[1]
    total_KK, count_K = np.zeros((classes, classes)), np.bincount(outputs.label_N, minlength=classes)
    np.add.at(total_KK, outputs.label_N, outputs.logits_NK)
    result: Array = total_KK / np.maximum(count_K, 1)[:, None]
    return result


def mean_difference(student: Outputs, teacher: Outputs) -> Array:
    """[K, K]: |mean logits of the teacher - those of the student|, as mdistiller's correlation notebook draws it: the
    diagonal, where logits are largest, is left out (0). Our scale is the logits' own, not a fixed 3.0."""
    difference_KK: Array = np.abs(mean_logits(teacher) - mean_logits(student))
    np.fill_diagonal(difference_KK, 0)
    return difference_KK


def correlation_difference(student: Outputs, teacher: Outputs) -> Array:
    """[K, K]: |Pearson correlations of the teacher's logits over the images - those of the student's|, 0 to 2.

    A logit that never changes correlates with nothing: 0.
    """
    corr_student_KK, corr_teacher_KK = (_correlations(outputs.logits_NK) for outputs in (student, teacher))
    result: Array = np.abs(corr_teacher_KK - corr_student_KK)
    return result


def _correlations(logits_NK: Array) -> Array:
    centred_NK = logits_NK.astype(np.float64) - logits_NK.mean(0, dtype=np.float64)
    norm_K = np.sqrt((centred_NK**2).sum(0))
    scaled_NK = centred_NK / np.where(norm_K > 0, norm_K, 1)
    result: Array = scaled_NK.T @ scaled_NK
    return result


ROWS = (
    ("difference of mean logits", mean_difference, "|teacher - student|"),
    ("difference of correlations", correlation_difference, "|teacher - student|"),
)


def draw(material: Material) -> Any:
    """A matplotlib Figure: two rows of heat maps, one column a student; one scale in a row. Raises Nothing."""
    shown = material.taught()[:PANELS]
    pairs = [(group.label, material.student(run), material.teacher(run)) for group, run in shown]
    with drawing() as pyplot:
        size = (PANEL_INCHES * max(2, len(pairs)) + 1.2, 2 * (PANEL_INCHES + 0.55))
        figure, axes = pyplot.subplots(2, len(pairs), figsize=size, layout="constrained", squeeze=False)
        for row, (title, of, unit) in zip(axes, ROWS, strict=True):
            maps = [of(student, teacher) for _, student, teacher in pairs]
            # Two outlying pairs of classes must not make all others look alike.
            top = float(np.quantile(np.stack(maps), 0.995)) or 1.0
            for axis, (label, *_), map_KK in zip(row, pairs, maps, strict=True):
                image = axis.imshow(map_KK, cmap=COLOURS, vmin=0, vmax=top, interpolation="nearest")
                axis.set_title(f"{label}\nmean {map_KK.mean():.3f}", fontsize=9, fontweight="normal")
                axis.set_xlabel("logit of class")
                axis.set_ylabel("image of class" if of is mean_difference else "logit of class")
                for side in (axis.xaxis, axis.yaxis):
                    side.get_major_locator().set_params(integer=True)
            figure.colorbar(image, ax=list(row), extend="max", shrink=0.85, label=f"{title}\n{unit}")
        figure.supxlabel("light = like the teacher", fontsize=8, color=MUTED)
        return figure


PICTURES.register("correlation")(
    Picture(
        title="Student and teacher logits, class by class",
        about="Above: the mean logits of the images of each class, teacher minus student, diagonal left out, as "
        "mdistiller's notebook draws its correlation matrices. Below: the correlation of logits over the images, "
        "teacher minus student. Absolute values; one colour scale in a row, so that panels compare; the smaller, the "
        "closer to the teacher. Four students at most.",
        draw=draw,
        order=5,
    )
)
