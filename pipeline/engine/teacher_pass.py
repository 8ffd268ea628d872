"""One pass of the teacher over the training set before the first step, for methods that learn thresholds from it."""

import torch
from torch import Tensor

from pipeline.contracts import Distiller, Loader, TeacherSource
from pipeline.engine.distributed.parallel import World


@torch.no_grad()
def teach(distiller: Distiller, teacher: TeacherSource, loader: Loader, world: World) -> None:
    """Calls distiller.learn with digests of the teacher's logits on the first epoch's views, by sample.

    Each rank runs its own part; all ranks learn from all of it, and so the same.
    """
    loader.set_epoch(0)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in loader:
        output = teacher(batch)
        assert output is not None
        found.append((batch.index_B, batch.label_B, distiller.digest(output.logits_BK)))
    index_M, label_M, digest_ME = (torch.cat(column) for column in zip(*found, strict=True))
    highest = int(world.largest(index_M.max()))
    label_N = index_M.new_full((highest + 1,), 0)
    seen_N = torch.zeros_like(label_N)
    digest_NE = digest_ME.new_zeros(highest + 1, digest_ME.shape[1])
    label_N[index_M], seen_N[index_M], digest_NE[index_M] = label_M, 1, digest_ME
    kept_N = world.sum(seen_N) > 0  # a held-out part of the set has no rows here
    distiller.learn(world.sum(digest_NE)[kept_N], world.sum(label_N)[kept_N])
