"""t-SNE of what the classifiers see (van der Maaten and Hinton, 2008), by scikit-learn."""

import importlib.util
from typing import Any

import numpy as np

from pipeline.contracts import InputError
from pipeline.pictures import PICTURES, Nothing, Picture
from pipeline.pictures.material import Array, Material, Outputs
from pipeline.pictures.style import COLOURS, MUTED, colour, drawing

PERPLEXITY = 30.0
LEAST = 5  # points
PANELS, COLUMNS, PANEL_INCHES = 6, 3, 2.7
SHAPES = ("o", "^", "s", "x")  # with the colours, 28 classes look different; no legend could name them all


def embedded(pooled_ND: Array, seed: int = 0) -> Array:
    """[N, 2]: the t-SNE of rows, the same for the same seed; started on the principal components."""
    if importlib.util.find_spec("sklearn") is None:
        raise InputError("what=tsne needs scikit-learn: pip install 'stillhouse[plot]', or leave tsne out of what=")
    from sklearn.manifold import TSNE

    # A row's neighbours cannot be more than a third of the others (its perplexity's meaning).
    perplexity = min(PERPLEXITY, (len(pooled_ND) - 1) / 3)
    kind = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    result: Array = kind.fit_transform(pooled_ND.astype(np.float32))
    return result


def draw(material: Material) -> Any:
    """A matplotlib Figure: the teacher, then one student of each group, points coloured by class. Raises Nothing."""
    named = [one for one in material.shown_networks() if len(one.outputs.label_N) >= LEAST][:PANELS]
    if not named:
        raise Nothing(f"fewer than {LEAST} test images")
    columns = min(COLUMNS, len(named))
    rows = -(-len(named) // columns)
    with drawing() as pyplot:
        size = (PANEL_INCHES * columns + 0.2, (PANEL_INCHES + 0.2) * rows + 0.3)
        figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for axis, one in zip(axes.flat, named, strict=False):
            _panel(axis, one.title, one.outputs, material.points)
        classes = len(np.unique(named[0].outputs.label_N))
        looks = len(COLOURS) * len(SHAPES)
        many = f"; they repeat after {looks} of {classes} classes" if classes > looks else ""
        text = f"one colour and shape a class{many}; axes have no unit"
        figure.supxlabel(text, fontsize=8, color=MUTED)
        return figure


def _panel(axis: Any, name: str, outputs: Outputs, points: int) -> None:
    count = min(points, len(outputs.label_N))
    chosen_P = np.unique(np.linspace(0, len(outputs.label_N) - 1, count).round().astype(np.int64))
    place_P2 = embedded(outputs.pooled_ND[chosen_P])
    class_P = np.unique(outputs.label_N, return_inverse=True)[1][chosen_P]
    for number in np.unique(class_P):
        x_K2, shape = place_P2[class_P == number], SHAPES[number // len(COLOURS) % len(SHAPES)]
        look = {"marker": shape, "color": colour(number), "s": 7, "linewidths": 0.5 if shape == "x" else 0}
        axis.scatter(x_K2[:, 0], x_K2[:, 1], **look)
    top1 = 100 * (outputs.logits_NK.argmax(1) == outputs.label_N).mean()
    axis.set_title(f"{name}\ntop-1 {top1:.1f} %, {len(chosen_P):,} images", fontsize=9, fontweight="normal")
    axis.set_aspect("equal", adjustable="datalim")


PICTURES.register("tsne")(
    Picture(
        title="t-SNE of features",
        about="The input of each classifier on test images, in two dimensions; neighbours stay neighbours, distances "
        "between clusters mean little. One run of each group is shown, six networks at most.",
        draw=draw,
        order=6,
    )
)
