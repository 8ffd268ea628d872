"""Networks that predict by more than themselves: what the method of a file adds to inference. For entry points only."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor, nn

from pipeline.builders import networks
from pipeline.config import DataConfig, TrainConfig, parts_of, validate_arguments
from pipeline.contracts import Distiller, InputError
from pipeline.distillers import DISTILLERS
from pipeline.registry import UnknownName
from pipeline.run_folder.description import Description, Predictor, Sight, printable
from pipeline.run_folder.student import Known, known_of
from pipeline.weights import holds_predictor, read_predictor


def predicts_otherwise(kind: type[Distiller]) -> bool:
    """Whether students of this method predict by more than their own classifier."""
    return kind.predict is not Distiller.predict or kind.predictor is not Distiller.predictor


def described_predictor(distiller: Distiller) -> Predictor | None:
    """What a run's files say of its method's predictor."""
    other = distiller.predictor()
    if other is None:
        return None
    place = next((name for name, module in distiller.named_modules() if module is other), "")
    part = next((name for name, one in distiller.combined.items() if one.predictor() is not None), None)
    return Predictor(method=part or described_name(distiller), module=place)


def described_name(method: Distiller) -> str:
    """The registered name of a method."""
    return next(name for name in DISTILLERS.names() if DISTILLERS.get(name) is type(method))


def description_of(config: TrainConfig, distiller: Distiller, class_names: Sequence[str]) -> Description:
    """What the files of a run say of its network."""
    parts = distiller.combined
    student = config.student
    return Description(
        dataset=config.dataset,
        networks=config.networks,
        model=str(student.model),
        block=student.block,
        args=student.args,
        num_classes=len(class_names),
        class_names=printable(class_names),
        data=sight_of(config.data),
        method=config.method,
        variant=config.variant,
        method_args={name: arguments_of(one) for name, one in parts.items()} if parts else arguments_of(distiller),
        predictor=described_predictor(distiller),
    )


def sight_of(data: DataConfig) -> Sight:
    """How a network that was trained with these keys looks at images."""
    return Sight(**{name: getattr(data, name) for name in Sight.model_fields if name in type(data).model_fields})


def arguments_of(method: Distiller) -> dict[str, Any]:
    """All hyper-parameters of a method, as JSON has them."""
    found: dict[str, Any] = TypeAdapter(type(method).Config).dump_python(method.config, mode="json")
    return found


def predictor_of(checkpoint: str | Path | None, student: nn.Module, image_size: int) -> Distiller | None:
    """The method that the network of `checkpoint` predicts with, None where it predicts by itself.

    image_size: where nobody says what it was trained at. Raises InputError where the file holds what a method predicts
    with, and which, or with which arguments, is not to be found out.
    """
    if checkpoint is None or str(checkpoint) in (networks.AUTO, networks.UNTRAINED):
        return None
    known = known_of(checkpoint)
    if known is None:
        return _recognised(checkpoint, student, image_size)
    part, arguments, module = _told(known)
    if part is None:
        return None
    try:
        kind = DISTILLERS.get(part)
    except UnknownName as error:
        raise InputError(f"{checkpoint} predicts by a method that is not known here: {error.args[0]}") from None
    state = _inside(read_predictor(checkpoint), module)
    lacks = InputError(f"{checkpoint} lacks what method {part} predicts with")
    if not state:
        raise lacks
    trained_at = known.keys.get("data.image_size")
    try:
        shapes = networks.shapes_of(student, trained_at if isinstance(trained_at, int) else image_size)
        return kind.for_inference(validate_arguments(kind.Config, arguments), state, shapes)
    except (KeyError, RuntimeError):
        raise lacks from None


def refuse_predictor(checkpoint: str | Path | None, student: nn.Module, image_size: int, key: str) -> None:
    """Raises InputError where the weights of `checkpoint` are one part of what predicts."""
    predictor = predictor_of(checkpoint, student, image_size)
    if predictor is not None:
        raise InputError(
            f"{key}={checkpoint}: this network predicts through what its method {type(predictor).__name__} added, its "
            "own classifier was never trained: it cannot be started from"
        )


def _told(known: Known) -> tuple[str | None, dict[str, Any], str]:
    """(part of the method that predicts, its arguments, its place in a checkpoint)."""
    one = known.description
    if one is not None:
        if one.predictor is None:
            return None, {}, ""
        part = one.predictor.method
        return part, _of_part(str(one.method), part, one.method_args), one.predictor.module
    method = str(known.config["method"])
    parts = parts_of(method)
    for part in parts:
        if predicts_otherwise(DISTILLERS.get(part)):
            place = f"parts.{part}" if len(parts) > 1 else ""
            given = known.config.get("method_args") or {}
            if not isinstance(given, Mapping):
                raise InputError(f"{known.source} is damaged: method_args is no mapping")
            return part, _of_part(method, part, given), place
    return None, {}, ""


def _of_part(method: str, part: str, given: Mapping[str, Any]) -> dict[str, Any]:
    own = (given.get(part) or {}) if len(parts_of(method)) > 1 else given
    return dict(own) if isinstance(own, Mapping) else {part: own}


def _inside(state: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint's `module`; a student's file holds these alone."""
    prefix = f"{module}." if module else ""
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return inside or dict(state)


def _recognised(checkpoint: str | Path, student: nn.Module, image_size: int) -> Distiller | None:
    """The predictor in a file that says nothing of itself, by its tensors; with the method's own arguments."""
    state = read_predictor(checkpoint)
    refusal = InputError(
        f"{checkpoint} holds what a method predicts with besides the network, and does not say which: keep it in its "
        "run folder, or train and export it anew"
    )
    if not state:
        return None
    shapes = networks.shapes_of(student, image_size)
    for kind, tensors in _candidates(state):
        try:
            return kind.for_inference(kind.Config(), tensors, shapes)
        except (KeyError, NotImplementedError):
            continue  # another method's
        except RuntimeError as error:
            if "size mismatch" in str(error):
                raise refusal from None
        except (ValueError, TypeError, InputError):
            raise refusal from None
    if holds_predictor(checkpoint):
        raise refusal
    return None


def _candidates(state: Mapping[str, Tensor]) -> Iterator[tuple[type[Distiller], dict[str, Tensor]]]:
    for name in DISTILLERS.names():
        kind = DISTILLERS.get(name)
        if predicts_otherwise(kind):
            yield kind, dict(state)
            prefix = f"parts.{name}."
            inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if inside:
                yield kind, inside
