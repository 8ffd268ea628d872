"""What a checkpoint holds of a running training, and how it gets back in, on the same or another number of ranks."""

from typing import Any

import torch
from torch import Tensor

from pipeline.engine.distributed.parallel import World
from pipeline.engine.evaluate import averaged_buffers
from pipeline.engine.forward import DistillationStep
from pipeline.engine.metrics import Meters
from pipeline.engine.update import Updater

State = dict[str, Any]


def on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies in host memory."""
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def rank_state(step: DistillationStep, meters: Meters, device: torch.device) -> State:
    """What differs between ranks: buffers (BN statistics, banks), random state, sums of the epoch."""
    return {
        "buffers": on_cpu(dict(step.named_buffers())),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "meters": meters.state_dict(),
    }


def capture(step: DistillationStep, updater: Updater, meters: Meters, world: World) -> State:
    """Networks, method, optimiser, and every rank's own part (on the leader). All ranks must call it.

    `model` has BN statistics averaged over the ranks, for other programs to load; each rank's own lie under `ranks`.
    """
    averaged = averaged_buffers(step.student, world)
    ranks = world.gather(rank_state(step, meters, world.device))
    model = on_cpu(step.student.state_dict() | averaged)
    return {
        "model": model,
        "distiller": on_cpu(step.distiller.state_dict()),
        "updater": updater.state_dict(),
        "ranks": ranks,
    }


def restore(state: State, step: DistillationStep, updater: Updater, meters: Meters, world: World) -> None:
    """Puts `capture`'s state back: bit for bit on as many ranks as wrote it, with averaged BN statistics on others."""
    step.student.load_state_dict(state["model"])
    step.distiller.load_state_dict(state["distiller"])
    updater.load_state_dict(state["updater"])
    ranks = state["ranks"]
    if len(ranks) == world.ranks:
        mine = ranks[world.rank]
        present = dict(step.named_buffers())
        for name, value in mine["buffers"].items():
            present[name].copy_(value)
        torch.set_rng_state(mine["rng"])
        if mine["cuda_rng"] is not None and world.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda_rng"], world.device)
        meters.load_state_dict(mine["meters"]["names"], mine["meters"]["total"])
        return
    total = torch.stack([r["meters"]["total"] for r in ranks]).sum(0)
    meters.load_state_dict(ranks[0]["meters"]["names"], total if world.leader else torch.zeros_like(total))
