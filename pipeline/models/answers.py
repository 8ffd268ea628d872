"""Whether a network answers what methods and tools ask of it (see common.Network): tried once, when it is made."""

import inspect
from typing import Any

from torch import Tensor, nn

from pipeline.contracts import InputError, ModelOutput


def check_signature(network: nn.Module, name: str) -> None:
    """Raises InputError where forward takes no `features`."""
    known = inspect.signature(network.forward).parameters
    if "features" not in known and all(one.kind is not one.VAR_KEYWORD for one in known.values()):
        raise InputError(f"model {name}: forward takes no features=False: forward(image_BCHW, features=False)")


def check_output(output: Any, name: str, classes: int) -> None:
    """Raises InputError where `output`, of one image, is no ModelOutput of logits_BK and pooled_BD."""
    if not isinstance(output, ModelOutput):
        raise InputError(f"model {name}: forward gives a {type(output).__name__}, not a ModelOutput")
    for field, width in (("logits_BK", classes), ("pooled_BD", None)):
        value = getattr(output, field)
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if not isinstance(value, Tensor) or value.dim() != 2 or width not in (None, value.shape[1]):
            wanted = f"[1, {width or 'D'}]"
            raise InputError(f"model {name}: {field} of one image is {shape}, not {wanted}")


def check_maps(network: Any, output: ModelOutput, name: str) -> None:
    """Raises InputError where the maps that were asked for are not those that the network's members tell of.

    A network may have no maps: methods that read some refuse it.
    """
    count = len(output.features)
    if not count:
        return
    told = {"preact_features": len(output.preact_features) or count}
    for member in ("stages", "stage_channels"):
        if not hasattr(network, member):
            raise InputError(f"model {name} has {count} maps and no {member}")
    told["stages()"], told["stage_channels"] = len(network.stages()), len(network.stage_channels)
    for member, there in told.items():
        if there != count:
            raise InputError(f"model {name}: forward gives {count} maps (the stem's first), {member} has {there}")
    for i, (map_BCHW, channels) in enumerate(zip(output.features, network.stage_channels, strict=True)):
        if map_BCHW.dim() == 4 and map_BCHW.shape[1] != channels:
            raise InputError(f"model {name}: map {i} has {map_BCHW.shape[1]} channels, stage_channels says {channels}")
