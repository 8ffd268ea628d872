"""Function matching. Beyer et al. 2022 (CVPR, arXiv 2106.05237), section 3: same view for both networks, mixup, KL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Stream, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.kd import kd_loss


@DISTILLERS.register("funmatch", "patient", "function_matching")
class FunMatch(Distiller):
    """T^2 * KL on the mixed view that both networks see; no labels unless ce_weight asks for them.

    One variant: the authors' code (big_vision) computes the published loss, T^2 included. Their mixing weight is
    uniform in 0..1, Beta(1, 1). The plain view is run as well (accuracy on it is reported); only the mixed one is
    matched. The method wants patience: 300 to 10,000 epochs in the paper.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature (1 on ImageNet, up to 10 on small sets); mixup_alpha: of Beta(alpha, alpha); kd_weight: of
        the match; ce_weight: of the plain view's cross-entropy, 0 in the paper."""

        T: Annotated[float, Field(gt=0)] = 1.0
        mixup_alpha: Annotated[float, Field(gt=0)] = 1.0
        ce_weight: Annotated[float, Field(ge=0)] = 0.0
        kd_weight: Annotated[float, Field(ge=0)] = 1.0

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The mixed view."""
        return {"mixed": Stream(kind="mixup", alpha=self.config.mixup_alpha)}

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        """The mixed view, the same pixels for both networks."""
        return [replace(batch, image_BCHW=batch.streams["mixed"], streams={}, mixes={})]

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        mixed = extra[0]
        assert mixed.teacher is not None
        c = self.config
        terms = {"kd": c.kd_weight * kd_loss(mixed.student.logits_BK, mixed.teacher.logits_BK, c.T)}
        if c.ce_weight:
            terms["ce"] = c.ce_weight * F.cross_entropy(student.logits_BK, batch.label_B)
        return terms
