"""Networks with weights: from keys of a configuration to a module that is ready to run. For entry points only."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.contracts import InputError, ModelOutput, Shapes
from pipeline.models.answers import check_maps, check_output, check_signature
from pipeline.models.blocks import fit_form, forms_of
from pipeline.models.build import build
from pipeline.models.external import preprocessing, published_classes, published_resize
from pipeline.weights import PLAIN, STUDENT, Part, load_into, read_state
from pipeline.weights.published import find_checkpoint

AUTO, UNTRAINED = "auto", "none"


def make(
    name: str,
    *,
    num_classes: int,
    image_size: int,
    checkpoint: str | None = None,
    dataset: str = "",
    root: str = "teachers",
    part: Part = "student",
    weights: str | None = None,
    key: str = STUDENT,
    options: Mapping[str, Any] | None = None,
    other_sizes: Iterable[int] = (),
) -> nn.Module:
    """The network `name` with first weights, or those of `checkpoint`, checked to take images of image_size pixels, and
    of other_sizes.

    checkpoint: a file, a run folder, `auto` (what is published for the data set: looked for under `root`, or the
    library's own for timm:NAME and torchvision:NAME, whose classifier may start anew: see `new_classifier`) or `none`.
    weights: which set of a file that holds several, see weights.load_weights; key: under which a user says so. Raises
    InputError.
    """
    given = {key: value for key, value in (options or {}).items() if value is not None}
    library = checkpoint == AUTO and ":" in name
    if weights not in (None, PLAIN) and (library or checkpoint in (None, UNTRAINED)):
        raise InputError(f"{key}={weights}: no file is read that could hold them")
    if library:
        network = build(name, num_classes=num_classes, pretrained=True, **given)
    else:
        network = build(name, num_classes=num_classes, **given)
        file = find(name, checkpoint, dataset, root)
        if file is not None:
            fill(network, file, part=part, weights=weights, key=key)
    check_signature(network, name)
    for size in (image_size, *other_sizes):
        check_output(check_size(network, name, size), name, num_classes)
    check_maps(network, check_size(network, name, image_size, features=True), name)
    return network


def find(name: str, checkpoint: str | None, dataset: str, root: str) -> Path | None:
    """The file or run folder that `checkpoint` means, None where it is none (a library's own weights, first ones)."""
    if checkpoint is None or checkpoint == UNTRAINED or (checkpoint == AUTO and ":" in name):
        return None
    return find_checkpoint(name, dataset, Path(root)) if checkpoint == AUTO else Path(checkpoint)


def new_classifier(name: str, checkpoint: str | None, num_classes: int) -> str | None:
    """Why the classifier of checkpoint=auto has first weights, None where it is the published one."""
    if checkpoint != AUTO or ":" not in name:
        return None
    there = published_classes(name)
    if there in (None, num_classes):
        return None
    has = f"a classifier of {there} classes" if there else "no classifier"
    return f"the published weights of {name} have {has}, the data set has {num_classes}: its classifier is untrained"


def fill(
    network: nn.Module, file: Path, *, part: Part = "student", weights: str | None = None, key: str = STUDENT
) -> None:
    """Loads `file` strictly; a deployed (folded) form of the network is recognised by its keys."""
    forms = forms_of(network)
    if len(forms) > 1:
        fit_form(network, read_state(file, part=part, weights=weights, key=key, forms=forms))
    load_into(network, file, part=part, weights=weights, key=key)


def classes_in(
    file: str, name: str, options: Mapping[str, Any], part: Part = "student", weights: str | None = None
) -> int:
    """How many classes the weights in `file` of a network `name` tell apart. Raises InputError."""
    given = {key: value for key, value in options.items() if value is not None}
    with torch.device("meta"):
        network = build(name, num_classes=2, **given)
    assert isinstance(network.classifier, nn.Linear)
    weight = network.classifier.weight
    heads = [key for key, value in network.named_parameters() if value is weight]
    state = read_state(Path(file), part=part, weights=weights, forms=forms_of(network))
    if not heads or heads[0] not in state or state[heads[0]].dim() != 2:
        raise InputError(f"{file}: holds no {heads[0] if heads else 'classifier'}, so it is no {name}")
    return state[heads[0]].shape[0]


def own_preprocessing(name: str, checkpoint: str | None) -> dict[str, Any]:
    """mean, std, image_size and interpolation that a library's pretrained weights want; {} for all others."""
    return preprocessing(name) or {} if checkpoint == AUTO and ":" in name else {}


def own_resize(name: str) -> int:
    """Pixels of the shorter side before the centre crop, as a library evaluates its weights."""
    return published_resize(name)


@torch.no_grad()
def shapes_of(network: nn.Module, image_size: int) -> Shapes:
    """What the network returns for one image, probed in eval mode: no statistic moves. It may lie on any device."""
    was_training = network.training
    where = next(network.parameters())
    network.eval()
    output = network(where.new_zeros(1, 3, image_size, image_size), features=True)
    network.train(was_training)
    features, preact = (
        tuple(tuple(map_BCHW.shape[1:]) for map_BCHW in maps) for maps in (output.features, output.preact_features)
    )
    return Shapes(output.logits_BK.shape[1], output.pooled_BD.shape[1], features, preact)


@torch.no_grad()
def check_size(network: nn.Module, name: str, image_size: int, *, features: bool = False) -> ModelOutput:
    """What it answers to one image. Raises InputError when it cannot take images of image_size pixels."""
    was_training = network.training
    network.eval()
    try:
        output: ModelOutput = network(torch.zeros(1, 3, image_size, image_size), features=features)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"model {name} cannot take images of {image_size} x {image_size} pixels: {reason}") from None
    finally:
        network.train(was_training)
    return output
