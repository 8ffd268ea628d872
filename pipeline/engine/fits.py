"""Whether a checkpoint is of this run, asked before anything of it is used: files may be of others, or made by hand."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.engine.forward import DistillationStep
from pipeline.engine.update import Updater
from pipeline.run_folder.formulas import changed_formulas
from pipeline.run_folder.metrics_file import fault_of, is_finite
from pipeline.run_folder.same_numbers import differences

FORMAT = 1
SHOWN = 3
DEEPEST = 16  # levels of a configuration
# Keys of parameter groups that came to torch's optimisers over time; they set them where a state has none.
LATER = {
    "maximize",
    "foreach",
    "capturable",
    "differentiable",
    "fused",
    "decoupled_weight_decay",
    "nesterov",
    "amsgrad",
}
NEEDED = ("model", "distiller", "updater", "ranks", "position", "clock", "resumed", "wall_seconds")
Own = Mapping[str, Tensor]


def faults(state: object, step: DistillationStep, updater: Updater, config: TrainConfig, steps: int) -> list[str]:
    """What keeps `state` from being one of this run, [] when it fits. steps: of an epoch."""
    if not isinstance(state, dict):
        return ["no state of a training"]
    missing = [f"no {name}" for name in NEEDED if name not in state]
    if missing or not _is(state.get("format", FORMAT), FORMAT):
        return missing or [f"format {state['format']!r:.40}"]
    return list(islice(_faults(state, step, updater, config, steps), SHOWN))


def _faults(
    state: dict[str, Any], step: DistillationStep, updater: Updater, config: TrainConfig, steps: int
) -> Iterator[str]:
    if "config" in state:
        other = state["config"]
        yield from differences(other, config) if _json(other, dict) else ["config is no table of keys"]
    limit = config.run.limit_steps or config.optim.epochs * steps
    if step.distiller.is_stage or not _trained(state["position"], min(limit, config.optim.epochs * steps)):
        yield from changed_formulas(state, step.distiller, config)
    yield from _tensors("model", state["model"], step.student.state_dict())
    yield from _tensors("distiller", state["distiller"], step.distiller.state_dict())
    yield from _of_updater(state["updater"], updater)
    yield from _of_ranks(state["ranks"], step)
    yield from _of_position(state, config.optim.epochs, steps)
    clock = state["clock"]
    if not (isinstance(clock, dict) and clock.keys() == {"images", "seconds"} and all(map(_count, clock.values()))):
        yield "clock"
    yield from (name for name in ("graph", "tf32") if not isinstance(state.get(name), str | None))
    if not (_whole(state["resumed"]) and _count(state["wall_seconds"])):
        yield "resumed or wall_seconds"


def _json(value: object, *kinds: type, depth: int = DEEPEST) -> bool:
    """Whether a value, of one of `kinds`, can be compared with JSON: tensors cannot."""
    if isinstance(value, dict):
        inner: list[object] = [*value, *value.values()]
    else:
        inner = value if isinstance(value, list) else []
    known = isinstance(value, kinds or (dict, list, str, int, float, type(None)))
    return known and depth > 0 and all(_json(one, depth=depth - 1) for one in inner)


def _is(value: object, number: int) -> bool:
    return _whole(value) and value == number


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count(value: object) -> bool:
    return is_finite(value) and value >= 0  # type: ignore[operator]


def _plain(value: object) -> bool:
    """A dense tensor with values, in host memory."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_nested)
    )


def _tensors(name: str, found: object, own: Own, optional: Collection[str] = ()) -> Iterator[str]:
    """optional: names that may be missing."""
    if not isinstance(found, dict):
        yield f"{name} is no table of tensors"
        return
    for key in [key for key in own if key not in found and key not in optional][:1]:
        yield f"{name} lacks {key}"
    for key, value in found.items():
        if key not in own:
            yield f"{name} has {key!r:.60}, which is not of this network or method"
            return
        if not _plain(value) or value.shape != own[key].shape or value.dtype != own[key].dtype:
            shape = list(getattr(value, "shape", ()))
            yield f"{name}: {key} is {getattr(value, 'dtype', type(value).__name__)} {shape}, not {_kind(own[key])}"
            return


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _of_updater(found: object, updater: Updater) -> Iterator[str]:
    own: dict[str, Any] = updater.state_dict()
    if not isinstance(found, dict) or not own.keys() <= found.keys():
        yield "updater"
        return
    held = [parameter for group in updater.optimizer.param_groups for parameter in group["params"]]
    yield from _of_optimizer(found["optimizer"], own["optimizer"], held)
    scaler = found["scaler"]
    if not isinstance(scaler, dict) or scaler.keys() != own["scaler"].keys() or not all(map(_count, scaler.values())):
        yield "the scaler: another runtime.amp?"
    for name in ("ema", "predictor_ema"):
        yield from _tensors(name, found[name], own[name])


def _of_optimizer(found: object, own: dict[str, Any], parameters: list[Tensor]) -> Iterator[str]:
    if not isinstance(found, dict) or not own.keys() <= found.keys():
        yield "optimizer"
        return
    groups, state = found["param_groups"], found["state"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        yield "optimizer: another number of parameter groups"
        return
    for group, mine in zip(groups, own["param_groups"], strict=True):
        if not isinstance(group, dict) or not _json(group.get("params")) or group["params"] != mine["params"]:
            yield "optimizer: other parameters"
        elif not all(_alike(group[key], value) if key in group else key in LATER for key, value in mine.items()):
            yield "optimizer: values of another type"
    order = [number for group in own["param_groups"] for number in group["params"]]
    if not isinstance(state, dict) or not state.keys() <= set(order):
        yield "optimizer: a state of other parameters"
        return
    shapes = {number: parameter.shape for number, parameter in zip(order, parameters, strict=True)}
    kinds = {number: _kinds(kept, shapes[number]) for number, kept in state.items()}
    # Of a parameter that is one number a counter cannot be told from what has the parameter's shape.
    if None in kinds.values() or len({kind for number, kind in kinds.items() if shapes[number]}) > 1:
        yield "optimizer: a state that does not fit its parameters"


def _kinds(kept: object, shape: torch.Size) -> tuple[tuple[str, str], ...] | None:
    """What is kept of a parameter, which is the same for all; None for what cannot be."""
    if not isinstance(kept, dict) or not all(isinstance(key, str) for key in kept):
        return None
    kinds = {}
    for key, value in kept.items():
        if isinstance(value, Tensor):
            fits = _plain(value) and (value.dim() == 0 or (value.shape == shape and value.is_floating_point()))
            kinds[key] = ("whole" if value.shape == shape else "single") if fits else ""
        else:
            kinds[key] = "none" if value is None else "number" if is_finite(value) else ""
    return None if "" in kinds.values() else tuple(sorted(kinds.items()))


def _alike(found: object, mine: object) -> bool:
    """Numbers, switches, lists of numbers: of the same sort as what this run's optimiser has."""
    if isinstance(mine, list | tuple):
        return isinstance(found, list | tuple) and len(found) == len(mine) and all(map(is_finite, found))
    if isinstance(mine, bool):
        return isinstance(found, bool)
    if mine is None:
        return found is None or isinstance(found, bool)
    return is_finite(found) if isinstance(mine, int | float) else True


def _of_ranks(found: object, step: DistillationStep) -> Iterator[str]:
    if not isinstance(found, list) or not found:
        yield "ranks is no list"
        return
    own = dict(step.named_buffers())
    passing = own.keys() - step.state_dict().keys()  # rebuilt at each start, whatever a version keeps of them
    for rank, part in enumerate(found):
        if not isinstance(part, dict) or not {"buffers", "rng", "cuda_rng", "meters"} <= part.keys():
            yield f"rank {rank}"
            return
        yield from _tensors(f"buffers of rank {rank}", part["buffers"], own, passing)
        if not _random(part["rng"]) or not (part["cuda_rng"] is None or _bytes(part["cuda_rng"])):
            yield f"the random state of rank {rank}"
        if not _sums(part["meters"]) or part["meters"]["names"] != found[0]["meters"]["names"]:
            yield f"the sums of rank {rank}"


def _bytes(value: object) -> bool:
    return _plain(value) and value.dtype == torch.uint8 and value.dim() == 1  # type: ignore[attr-defined]


def _random(value: object) -> bool:
    if not _bytes(value):
        return False
    with contextlib.suppress(RuntimeError, TypeError):
        torch.Generator().set_state(value.clone())  # type: ignore[attr-defined]
        return True
    return False


def _sums(found: object) -> bool:
    if not isinstance(found, dict) or not {"names", "total"} <= found.keys():
        return False
    names, total = found["names"], found["total"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    sizes = (3 + len(names),) if names else (0, 3)
    return bool(_plain(total) and total.dim() == 1 and total.dtype == torch.float64 and len(total) in sizes)


def _trained(position: object, steps: int) -> bool:
    """Whether all steps are taken; what follows a first stage is trained by the same method, so that does not count."""
    return isinstance(position, dict) and _whole(position.get("done")) and position["done"] >= steps


def _of_position(state: dict[str, Any], epochs: int, steps: int) -> Iterator[str]:
    position = state["position"]
    if not isinstance(position, dict) or not all(map(_whole, (position.get(k) for k in ("done", "closed")))):
        yield "position"
        return
    done, closed = position["done"], position["closed"]
    if not _is(position.get("steps_per_epoch"), steps):
        yield f"{position.get('steps_per_epoch')!r:.20} steps an epoch, where this data set has {steps}"
    elif done > min(closed + 1, epochs) * steps or (closed and done <= (closed - 1) * steps):
        yield f"step {done:.0f} with {closed:.0f} closed epochs of {steps} steps, {epochs} in all"
    records = state.get("records")
    if records is None:
        return
    if not isinstance(records, list) or len(records) != closed:
        yield f"records of another number of epochs than {closed}"
    elif wrong := [fault for n, record in enumerate(records, 1) if (fault := fault_of(record, n))]:
        yield f"records: {wrong[0]}"
