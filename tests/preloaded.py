"""What the fork server imports before its first child, so that no child has to."""

import torch
import torch._dynamo  # every optimiser does at its first step: 1.2 s
from torch.nn.parallel import DistributedDataParallel

from pipeline import datasets, distillers, loaders, models, teachers
from pipeline.engine import optimizers

torch.set_num_threads(1)
for registry in (
    datasets.DATASETS,
    distillers.DISTILLERS,
    loaders.LOADERS,
    models.MODELS,
    teachers.TEACHERS,
    optimizers.OPTIMIZERS,
):
    registry.names()
assert DistributedDataParallel
