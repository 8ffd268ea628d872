"""What a teacher cache is of, as a nested mapping that is equal for a run that may read it. For entry points only."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pipeline import views
from pipeline.builders.method import declared_by, method_kinds, teacher_preprocess
from pipeline.config import DataConfig, TrainConfig
from pipeline.config.affects import dumped, keys_that_affect
from pipeline.contracts import Loader, Signal, Stream
from pipeline.datasets import ImageSet
from pipeline.loaders.config import STEP_KINDS
from pipeline.teachers import TEACHERS

COMPILED = "_orig_mod."  # what torch.compile puts into names


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers by name, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name.replace(COMPILED, '')} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def precision_of(config: TrainConfig) -> dict[str, Any]:
    """amp: the teacher's autocast; fold: whether its batch norms are folded, which changes the last bits.

    fold=auto folds for methods that want neither stage maps nor a teacher in training mode.
    """
    teacher = config.teacher
    fold = teacher.fold == "on"
    if teacher.fold == "auto":
        maps = any(Signal.FEATURES in kind.needs for kind in method_kinds(config).values())
        fold = not (maps or declared_by(config, "teacher_in_train_mode") or declared_by(config, "teacher_probed"))
    return {"amp": config.runtime.amp if teacher.amp == "same" else teacher.amp, "fold": fold}


def _teacher(config: TrainConfig, source: str, network: nn.Module | None) -> dict[str, Any]:
    teacher, prepare = config.teacher, teacher_preprocess(config)
    found: dict[str, Any] = {
        "model": teacher.model,
        "args": teacher.args,
        "source": source,
        "image_size": prepare.image_size or config.data.image_size,
        "scale": prepare.scale_C11.flatten().tolist(),
        "shift": prepare.shift_C11.flatten().tolist(),
        "interpolation": prepare.interpolation if prepare.image_size else None,
    }
    section = TEACHERS.get(source).section
    if section:
        found[section] = getattr(teacher, section).model_dump(mode="json", exclude={"batch_statistics"})
    if network is not None:
        found["weights"] = weights_hash(network)
    return found


def _stream(stream: Stream, config: TrainConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": stream.kind, "alpha": stream.alpha, "size": stream.size}
    if stream.kind in STEP_KINDS:
        # Who is mixed with whom follows from the batches.
        found |= {"batch_size": config.data.batch_size, "order": config.data.order}
    return found


def identity_of(
    config: TrainConfig,
    *,
    source: str,
    network: nn.Module | None,
    images: ImageSet,
    loader: Loader,
    streams: Mapping[str, Stream],
    tf32: str | None,
) -> dict[str, Any]:
    """source: live or pruned; network: the teacher, None where the run has no weights of it to compare.

    loader: of the training set. tf32: in force, None where records made with it will do, and without it. Numbers are as
    JSON gives them back.
    """
    data = config.data
    pixels = dumped(data, keys_that_affect(DataConfig, "pixels"))
    first_size, grow_epochs = pixels.pop("min_image_size"), pixels.pop("grow_epochs")
    pixels["ramp"] = [first_size, *grow_epochs] if first_size else None
    return {
        "teacher": _teacher(config, source, network),
        "dataset": {
            "name": images.name,
            "split": images.split,
            "samples": len(images),
            "fingerprint": images.fingerprint(),
            # Positions that are held out for validation follow from these two.
            "held_out": [data.val_split, data.seed] if data.val_split else None,
        },
        "data": pixels,
        "law": {"version": views.VERSION},
        "pixels": loader.pixels,
        "precision": precision_of(config) | ({} if tf32 is None else {"tf32": tf32}),
        "streams": {name: _stream(stream, config) for name, stream in sorted(streams.items())},
    }
