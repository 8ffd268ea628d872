"""Count what a network gets right on the test set, each sample once; the last line printed is one JSON object.

python pipeline/evaluate.py dataset=cifar100 model=wrn_16_2 checkpoint=FILE data.root=D
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pipeline import cli
from pipeline.builders import networks
from pipeline.builders.checkpoint_config import EVALUATED, composed, nameless, say
from pipeline.builders.predictors import predictor_of
from pipeline.builders.run import image_set, loader_config, make_loader
from pipeline.config import EvaluateConfig, describe
from pipeline.contracts import Distiller, InputError
from pipeline.datasets.image_set import check_classes
from pipeline.engine.distributed import parallel
from pipeline.engine.evaluate import Evaluation
from pipeline.run_folder.student import class_lines


def help_text() -> str:
    """What --help prints."""
    return describe(
        __doc__ or "",
        EvaluateConfig,
        "\ncheckpoint= and weights= are those of student.; prints " + json.dumps(FIELDS),
    )


FIELDS = ["dataset", "model", "checkpoint", "samples", "correct_top1", "correct_top5", "top1", "top5", "loss"]


def main(argv: list[str]) -> None:
    """The command line."""
    config, found = composed(EvaluateConfig, argv, EVALUATED)
    student, data = config.student, config.data
    if student.model is None or student.checkpoint is None:
        raise nameless(student.checkpoint)
    with parallel.start(config.runtime) as world:
        images = image_set(config.dataset, data, "test", world)
        check_classes(images)
        fresh = networks.new_classifier(student.model, student.checkpoint, images.num_classes)
        if fresh:
            raise InputError(fresh)
        if world.leader:
            say([*found.lines(config), *class_lines(found.known, images.class_names)])
        network = networks.make(
            student.model,
            num_classes=images.num_classes,
            image_size=data.test_size,
            checkpoint=student.checkpoint,
            weights=student.weights,
            dataset=config.dataset,
            root=config.root,
            part=config.part,
            options=student.args | {"block": student.block},
        )
        file = networks.find(student.model, student.checkpoint, config.dataset, config.root)
        predictor = predictor_of(file, network, data.image_size)
        if predictor is not None:
            predictor.to(world.device)
        network = parallel.prepare_frozen(network, config.runtime, world.device)
        autocast = parallel.autocast_factory(config.runtime, world.device)
        loader = make_loader(images, loader_config(data, config.runtime, world, train=False))
        predict = predictor.predict if predictor is not None else Distiller.predict_by_student
        features, flip = predictor is not None, data.eval_flip
        score = Evaluation(network, predict, loader, world, autocast, features=features, flip=flip)()
        if world.leader:
            names = [config.dataset, student.model, student.checkpoint, score.samples]
            counts = [score.correct_top1, score.correct_top5, score.top1, score.top5, score.loss]
            print(json.dumps(dict(zip(FIELDS, names + counts, strict=True))))


if __name__ == "__main__":
    cli.run(main, help_text, {})
