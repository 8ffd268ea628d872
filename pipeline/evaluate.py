"""Count what a network gets right on the test set, each sample once; the last line printed is one JSON object.

python pipeline/evaluate.py dataset=cifar100 model=wrn_16_2 checkpoint=FILE data.root=D
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pipeline import entry
from pipeline.assemble import ALIASES, NAMES, image_set, make_plan
from pipeline.config import EvaluateConfig, compose, describe
from pipeline.contracts import InputError
from pipeline.engine import parallel
from pipeline.engine.evaluate import evaluate
from pipeline.loaders import LOADERS
from pipeline.models import MODELS
from pipeline.weights import load_into

KEYS = ("dataset", "student.model", "data.loader")


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", EvaluateConfig, "\ncheckpoint= is student.checkpoint=; prints " + json.dumps(FIELDS))


FIELDS = ["dataset", "model", "checkpoint", "samples", "correct_top1", "correct_top5", "top1", "top5", "loss"]


def main(argv: list[str]) -> None:
    """The command line."""
    config = compose(
        EvaluateConfig,
        argv,
        aliases=ALIASES | {"checkpoint": "student.checkpoint"},
        names={key: NAMES[key] for key in KEYS},
    )
    model, checkpoint = config.student.model, config.student.checkpoint
    if model is None or checkpoint is None:
        raise InputError("give model=NAME and checkpoint=FILE")
    with parallel.start(config.runtime) as world:
        images = image_set(config.dataset, config.data, "test", world)
        network = MODELS.get(model)(num_classes=images.num_classes)
        load_into(network, Path(checkpoint), part=config.part)
        network = parallel.prepare_frozen(network, config.runtime, world.device)
        plan = make_plan(config.data, config.runtime, world, train=False, batch_size=config.data.eval_batch_size)
        autocast = parallel.autocast_factory(config.runtime, world.device)
        score = evaluate(
            network, lambda out: out.logits_BK, LOADERS.get(config.data.loader)(images, plan), world, autocast
        )
        if world.leader:
            names = {"dataset": config.dataset, "model": model, "checkpoint": checkpoint, "samples": score.samples}
            counts = {"correct_top1": score.correct_top1, "correct_top5": score.correct_top5}
            print(json.dumps({**names, **counts, "top1": score.top1, "top5": score.top5, "loss": score.loss}))


if __name__ == "__main__":
    entry.run(main, help_text, {})
