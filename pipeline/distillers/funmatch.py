"""Function matching. Beyer et al. 2022 (CVPR, arXiv 2106.05237), section 3: same view for both networks, mixup, KL."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Stream, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.kd import kd_loss


@DISTILLERS.register("funmatch", "patient", "function_matching")
class FunMatch(Distiller):
    """kd_weight * T^2 * KL on the mixed view, which both networks see and nothing else; no labels.

    One variant: the authors' code (big_vision) computes the published loss, T^2 included. It draws the mixing weight
    a from Beta(1, 1), takes max(a, 1 - a), and rolls the batch by one; here it is a itself, and the partners are a
    permutation. Images come in random order, so the mixed pictures are distributed alike. What differs is whose label a
    picture carries: there always that of the larger share, here in half of all cases that of the smaller one. No term
    reads it, but the training accuracy counts it and is low. The method wants patience: 300 to 1200 epochs on
    ImageNet, thousands on small sets.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature (1 on ImageNet, up to 10 on small sets); mixup_alpha: of Beta(alpha, alpha); kd_weight: of
        the match."""

        T: Annotated[float, Field(gt=0)] = 1.0
        mixup_alpha: Annotated[float, Field(gt=0)] = 1.0
        kd_weight: Annotated[float, Field(ge=0)] = 1.0

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The mixed view."""
        return {"mixed": Stream(kind="mixup", alpha=self.config.mixup_alpha)}

    def main_batch(self, batch: Batch) -> Batch:
        """The mixed view in place of the plain one, the same pixels for both networks."""
        return replace(batch, image_BCHW=batch.streams["mixed"], info=batch.info._replace(stream="mixed"))

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        return {"kd": self.config.kd_weight * kd_loss(student.logits_BK, teacher.logits_BK, self.config.T)}
