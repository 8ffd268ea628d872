"""Write a network as it is served, checked against the original, with a model card; or count its parameters and FLOPs.

python pipeline/export.py checkpoint=runs/cifar100/kd/resnet56-resnet20/seed0 to=onnx out=resnet20.onnx
python pipeline/export.py checkpoint=FILE model=represnet20 dataset=cifar100 to=state_dict deploy=true
python pipeline/export.py to=summary model=resnet8x4 dataset=cifar100
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pipeline import cli  # before torch: see pipeline/__init__.py

# isort: split
import torch
from torch import nn

from pipeline.builders import networks
from pipeline.builders.checkpoint_config import Found, composed, origin_of, say
from pipeline.builders.predictors import predictor_of
from pipeline.config import ExportConfig, describe
from pipeline.contracts import InputError, unwritten
from pipeline.deployment.card import card_text, sha256_of, summary_text
from pipeline.deployment.formats import FORMATS, SUFFIX, plain_state
from pipeline.deployment.inference import Inference, count_flops, count_parameters
from pipeline.models.blocks import deploy
from pipeline.run_folder.student import read_record
from pipeline.utils.atomic import whole_or_absent, write_text
from pipeline.weights import sealed
from pipeline.weights.published import published_licence

KEYS = ("dataset", "student.model", "student.block")
# Relative. Kernels, folded BN and other libraries round differently: 3.6e-7 seen for resnet20 in onnxruntime.
TOLERANCE = 1e-4
CHECKED = 3
MIRRORED = "image and mirror image, the mean of their logits (the file takes one image)"
IMAGENET_CLASSES = 1000  # where neither checkpoint nor data set says another number


class CheckFailed(Exception):
    """The exported file does not compute what the network computes."""


FAILURES: dict[type[Exception], int] = {CheckFailed: 1}


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", ExportConfig, "\ncheckpoint=, weights= and model= are those of student.")


def original(config: ExportConfig) -> nn.Module:
    """The network in the form of its checkpoint, in eval mode."""
    student = config.student
    if student.model is None:
        raise InputError("give model=NAME, or checkpoint= a run folder")
    options = student.args | {"block": student.block}
    classes = config.num_classes
    if classes is None and student.checkpoint not in (None, networks.AUTO, networks.UNTRAINED):
        classes = networks.classes_in(str(student.checkpoint), student.model, options, config.part, student.weights)
    untrained = networks.new_classifier(student.model, student.checkpoint, classes or IMAGENET_CLASSES)
    if untrained:
        raise InputError(untrained)
    network = networks.make(
        student.model,
        num_classes=classes or IMAGENET_CLASSES,
        image_size=config.data.test_size,
        checkpoint=student.checkpoint,
        weights=student.weights,
        dataset=config.dataset or "",
        root=config.root,
        part=config.part,
        options=options,
    )
    return network.eval()


def licence_of(config: ExportConfig) -> str | None:
    """What is known of the licence of published weights (checkpoint=auto)."""
    student = config.student
    published = student.checkpoint == networks.AUTO
    return published_licence(str(student.model), config.dataset or "") if published else None


def summarise(config: ExportConfig, network: nn.Module) -> dict[str, Any]:
    """Parameters, FLOPs and stage maps of both forms."""
    size = config.data.test_size
    deployed = deploy(copy.deepcopy(network))
    with torch.no_grad():
        output = network(torch.zeros(1, 3, size, size), features=True)
    return {
        "model": config.student.model,
        "num_classes": output.logits_BK.shape[1],
        "image_size": size,
        "parameters": count_parameters(network),
        "parameters_deployed": count_parameters(deployed),
        "flops": count_flops(network, size),
        "flops_deployed": count_flops(deployed, size),
        "stages": [list(map_BCHW.shape[1:]) for map_BCHW in output.features],
    }


def write_checked(served: Inference, source: Inference, to: str, path: Path, facts: dict[str, Any]) -> None:
    """Writes `served` under a temporary name, compares the file with `source`, writes the card, renames it to `path`.

    facts: the card's, which get what is known of the file; "said": what the file says of itself.
    """
    size = facts["input"]["image_size"]
    generator = torch.Generator().manual_seed(0)
    image_BCHW = torch.randn(CHECKED, 3, size, size, generator=generator)
    try:
        with whole_or_absent(path) as handle:
            file = Path(handle.name)
            run = FORMATS.get(to)(served, image_BCHW[:2], file, facts.pop("said"))
            with torch.no_grad():
                wanted_BK = source(image_BCHW)
                worst = max(float((run(image_BCHW[:n]) - wanted_BK[:n]).abs().max()) for n in (1, CHECKED))
            relative = worst / float(wanted_BK.abs().max())
            if not relative <= TOLERANCE:
                raise CheckFailed(
                    f"{path} would differ from its source by {relative:.2g} of the largest logit: not written"
                )
            facts["check"] = {"images": CHECKED, "max_abs": worst, "relative": relative}
            facts |= {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
            write_text(path.with_name(path.name + ".md"), card_text(facts))
    except OSError as error:
        raise unwritten(f"cannot write {path}", error) from None


def export(config: ExportConfig, found: Found) -> dict[str, Any]:
    """Writes the file and its card; returns what the card says."""
    if config.student.checkpoint is None:
        raise InputError("give checkpoint=FILE, a run folder, auto, or none (first weights)")
    network = original(config)
    served = deploy(copy.deepcopy(network)) if config.deploy else network
    path = Path(config.out or f"{str(config.student.model).replace('/', '-').replace(':', '-')}{SUFFIX[config.to]}")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: no folder {path.parent}")
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder")
    weights = networks.find(str(config.student.model), config.student.checkpoint, config.dataset or "", config.root)
    predictor = predictor_of(weights, network, config.data.image_size)
    source = Inference(network, predictor)
    served_whole = Inference(served, copy.deepcopy(predictor))
    classes = served_whole(torch.zeros(1, 3, *2 * [config.data.test_size])).shape[1]
    origin = origin_of(config, found, classes, predictor)
    facts = {
        **read_record(str(config.student.checkpoint)),
        "model": config.student.model,
        "dataset": config.dataset,
        "deployed": count_parameters(served) != count_parameters(network),
        "parameters": count_parameters(served_whole),
        "parameters_training": count_parameters(source),
        "flops": count_flops(served_whole, config.data.test_size),
        "num_classes": classes,
        "measured_on": MIRRORED if config.data.eval_flip else "the image as it is",
        "input": {"image_size": config.data.test_size, "mean": config.data.mean, "std": config.data.std},
        "file": path.name,
        "licence": config.licence or licence_of(config),
        "said": sealed(origin, plain_state(served_whole)) if origin else {},
    }
    write_checked(served_whole, source, config.to, path, facts)
    return facts


def main(argv: list[str]) -> None:
    """The command line."""
    config, found = composed(ExportConfig, argv, KEYS)
    say(found.lines(config))
    if config.to == "summary":
        print(summary_text(summarise(config, original(config))))
        return
    facts = export(config, found)
    print(
        f"{facts['file']}: {facts['parameters']:,} parameters, "
        f"differs by {facts['check']['relative']:.2g} of the largest logit"
    )
    print(json.dumps({key: facts[key] for key in ("model", "file", "bytes", "sha256", "parameters", "flops", "check")}))


if __name__ == "__main__":
    cli.run(main, help_text, FAILURES)
