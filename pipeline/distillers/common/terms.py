"""The terms that nearly every feature method adds to its own: cross-entropy, and KD at a weight that is mostly 0."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput
from pipeline.distillers.kd import kd_loss


@dataclass(frozen=True, kw_only=True)
class LabelWeights:
    """ce_weight: of the cross-entropy; kd_weight, T: weight and temperature of the KD term.

    RepDistiller and mdistiller use feature methods with 1 and 0, SimKD and SemCKD with 1 and 1.
    """

    ce_weight: Annotated[float, Field(ge=0)] = 1.0
    kd_weight: Annotated[float, Field(ge=0)] = 0.0
    T: Annotated[float, Field(gt=0)] = 4.0


def label_terms(method: Distiller, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
    """The term "ce", and "kd" where its weight is not 0; scalars, means over the batch. method: with LabelWeights."""
    weights: LabelWeights = method.config
    terms = {"ce": weights.ce_weight * method.task_loss(student.logits_BK, batch)}
    if weights.kd_weight > 0:
        terms["kd"] = weights.kd_weight * kd_loss(student.logits_BK, teacher.logits_BK, weights.T)
    return terms
