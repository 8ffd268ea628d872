"""Whether networks know how sure they can be: reliability diagram and expected calibration error (Guo et al., 2017)."""

from typing import Any, NamedTuple

import numpy as np

from pipeline.pictures import PICTURES, Picture
from pipeline.pictures.agreement import log_softmax
from pipeline.pictures.material import Array, Material
from pipeline.pictures.style import (
    COLOURS,
    INK,
    MUTED,
    WIDTH_INCHES,
    colour,
    dash,
    drawing,
    legend_below,
    legend_inches,
    quiet,
)

BINS = 15
LEAST = 5  # images: a bin of fewer says nothing, and is left out of the line (not of the ECE)


class Reliability(NamedTuple):
    """By bin of confidence [BINS]: images, accuracy and mean confidence in 0..1 (0 in an empty bin); ece: per cent."""

    images: Array
    accuracy: Array
    confidence: Array
    ece: float


def reliability(logits_NK: Array, label_N: Array) -> Reliability:
    """Bins of equal width, (i / BINS, (i + 1) / BINS]. ECE: mean |accuracy - confidence|, weighted by images."""
    sure_N = np.exp(log_softmax(logits_NK)).max(1)
    right_N = (logits_NK.argmax(1) == label_N).astype(np.float64)
    bin_N = np.clip(np.ceil(sure_N * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count, right, sure = (np.bincount(bin_N, weights=w, minlength=BINS) for w in (None, right_N, sure_N))
    ece = float(100 * np.abs(right - sure).sum() / len(label_N))
    return Reliability(count, right / np.maximum(count, 1), sure / np.maximum(count, 1), ece)


def draw(material: Material) -> Any:
    """A matplotlib Figure: accuracy over confidence, and how many images lie where. Raises Nothing without weights."""
    named = material.shown_networks()
    found = [reliability(one.outputs.logits_NK, one.outputs.label_N) for one in named]
    labels = [f"{one.title}: ECE {its.ece:.1f} %" for one, its in zip(named, found, strict=True)]
    with drawing() as pyplot:
        size = (WIDTH_INCHES, 4.9 + legend_inches(labels))
        figure, (upper, lower) = pyplot.subplots(
            2, 1, figsize=size, height_ratios=(3, 1), sharex=True, layout="constrained"
        )
        upper.plot((0, 100), (0, 100), color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        upper.annotate("sure too rarely", (4, 93), color=MUTED, fontsize=8)
        upper.annotate("sure too often", (96, 5), color=MUTED, fontsize=8, ha="right")
        looks = [_look(number, one.group) for number, one in enumerate(named)]
        handles = [_lines(upper, lower, its, look) for look, its in zip(looks, found, strict=True)]
        upper.set(title="Reliability", ylabel="right (% of the images)", xlim=(0, 100), ylim=(0, 100))
        lower.set(xlabel="confidence: probability of the class given (%)", ylabel="images (%)")
        for axis in (upper, lower):
            quiet(axis)
        legend_below(figure, handles, labels)
        return figure


def _look(number: int, group: int | None) -> dict[str, Any]:
    """Of network `number` of the picture: students as in other pictures, teachers black, one dash each."""
    if group is None:
        return {"color": INK, "linestyle": dash(number * len(COLOURS)), "linewidth": 1.0}
    return {"color": colour(group), "linestyle": dash(group), "linewidth": 1.6}


def _lines(upper: Any, lower: Any, one: Reliability, look: dict[str, Any]) -> Any:
    kept = one.images >= LEAST
    (line,) = upper.plot(
        100 * one.confidence[kept], 100 * one.accuracy[kept], marker="o", markersize=3.5, clip_on=False, **look
    )
    lower.stairs(100 * one.images / one.images.sum(), 100 * np.arange(BINS + 1) / BINS, **look)
    return line


PICTURES.register("calibration")(
    Picture(
        title="Calibration",
        about="Of the images to which a network gives its class with a confidence, how many are right? On the dotted "
        "diagonal it knows how sure it can be. ECE: expected calibration error, 15 bins of equal width, weighted by "
        "images (Guo et al., 2017). Bins of fewer than five images are left out of the line. One run of each group.",
        draw=draw,
        order=4,
    )
)
