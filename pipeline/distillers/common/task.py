"""The task's own loss, the term `ce` of nearly every method."""

import torch.nn.functional as F
from torch import Tensor

from pipeline.contracts import Batch


def task_loss(logits_BK: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy with the labels, mean over the batch, a scalar.

    batch.smoothing of the target is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567, section 7).
    """
    return F.cross_entropy(logits_BK, batch.label_B, label_smoothing=batch.smoothing)
