"""R2KD. Kim, Ham, Cho and Kim 2023 (arXiv 2311.13934): correlation distance by value and by rank, augmented batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Stream, View
from pipeline.distillers import DISTILLERS
from pipeline.mixing import entropy, most_uncertain

EPS = 1e-8  # of the official code, added to the product of norms


def cosine(a_RD: Tensor, b_RD: Tensor) -> Tensor:
    """Cosines of the rows, [R]; 0 with gradient 0 where a row is 0."""
    norms_R = torch.linalg.vector_norm(a_RD, dim=1) * torch.linalg.vector_norm(b_RD, dim=1)
    return (a_RD * b_RD).sum(dim=1) / (norms_R + EPS)


def value_loss(student_BK: Tensor, teacher_BK: Tensor, T: float, chosen_B: Tensor | None = None) -> Tensor:
    """T^2 * [(1 - mean_B cos of rows) + (1 - mean_K cos of columns)] of the softmaxes at T, a scalar.

    chosen_B: ones for the samples that count and zeros for the rest; None: all count.
    """
    p_BK, q_BK = F.softmax(student_BK / T, dim=1), F.softmax(teacher_BK / T, dim=1)
    rows_B = cosine(p_BK, q_BK)
    if chosen_B is not None:
        rows_B = rows_B * chosen_B * (len(rows_B) / chosen_B.sum())
        p_BK, q_BK = p_BK * chosen_B[:, None], q_BK * chosen_B[:, None]
    columns_K = cosine(p_BK.T, q_BK.T)
    return T**2 * ((1 - rows_B.mean()) + (1 - columns_K.mean()))


def spearman(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """Rank correlation of each sample's classes, float32 [B], without gradient: ranks have none."""
    classes = student_BK.shape[1]

    def centred_ranks(logits_BK: Tensor) -> Tensor:
        # float32 as in the official code, whose rounding the reported loss then shares; whole numbers below 2^24.
        rank_BK = (logits_BK.argsort(dim=1).argsort(dim=1) + 1).float() / (classes * (classes + 1) / 2)
        return rank_BK - rank_BK.mean(dim=1, keepdim=True)

    with torch.no_grad():
        return cosine(centred_ranks(student_BK), centred_ranks(teacher_BK))


@DISTILLERS.register("r2kd")
class R2KD(Distiller):
    """ce_weight * cross-entropy + value_weight * value_loss + rank_weight * (1 - mean rank correlation), the last two
    again for the augmented view.

    One variant: the official code computes the published formula. In both, the rank part is a constant to the
    optimiser, since sorting has no gradient: it moves the reported loss and nothing else. The teacher of the paper is
    .7 of the network and .3 of its pruned copy, which is a matter of its source (teacher.source=pruned).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; *_weight: of the terms; augment: how the second view is made.

        mixup_alpha, cutmix_alpha: of Beta(alpha, alpha); cutout_size: side in pixels; pick: samples of the global
        batch, those of the teacher's largest entropy, whose augmented view counts (cutmixpick).
        """

        T: Annotated[float, Field(gt=0)] = 4.0
        ce_weight: Annotated[float, Field(ge=0)] = 1.0
        value_weight: Annotated[float, Field(ge=0)] = 2.0
        rank_weight: Annotated[float, Field(ge=0)] = 2.0
        augment: Literal["cutmix", "mixup", "cutout", "autoaug", "cutmixpick", "none"] = "cutmix"
        mixup_alpha: Annotated[float, Field(gt=0)] = 0.2
        cutmix_alpha: Annotated[float, Field(gt=0)] = 1.0
        cutout_size: Annotated[int, Field(ge=1)] = 8
        pick: Annotated[int, Field(ge=1)] = 64

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        cutmix = Stream(kind="cutmix", alpha=config.cutmix_alpha)
        streams = {
            "mixup": Stream(kind="mixup", alpha=config.mixup_alpha),
            "cutmix": cutmix,
            "cutmixpick": cutmix,
            "cutout": Stream(kind="cutout", size=config.cutout_size),
            "autoaug": Stream(kind="autoaugment"),
        }
        self.augmented = {"augmented": streams[config.augment]} if config.augment in streams else {}
        self.picks = {"cutmixpick": config.pick}.get(config.augment)

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The augmented view, if any."""
        return self.augmented

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        """The augmented view of the same samples."""
        return [replace(batch, image_BCHW=batch.streams[name], streams={}, mixes={}) for name in self.augmented]

    def _chosen(self, teacher_BK: Tensor) -> Tensor | None:
        """Ones for the samples of the global batch to pick. All are run: a batch keeps its shape and its ranks."""
        if self.picks is None or len(teacher_BK) <= self.picks:
            return None
        entropy_B = entropy(teacher_BK)
        return torch.zeros_like(entropy_B).index_fill(0, most_uncertain(entropy_B, self.picks), 1)

    def _terms(self, student_BK: Tensor, teacher_BK: Tensor, chosen_B: Tensor | None) -> tuple[Tensor, Tensor]:
        c = self.config
        value = value_loss(student_BK, teacher_BK, c.T, chosen_B)
        correlation_B = spearman(student_BK, teacher_BK)
        if chosen_B is not None:
            correlation_B = correlation_B * chosen_B.float() * (len(chosen_B) / chosen_B.sum())
        rank = c.rank_weight * (1 - correlation_B.mean())
        return c.value_weight * value, rank.to(value.dtype)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = {"ce": self.config.ce_weight * F.cross_entropy(student.logits_BK, batch.label_B)}
        teacher_BK = self.gather(teacher.logits_BK)
        terms["value"], terms["rank"] = self._terms(self.gather(student.logits_BK), teacher_BK, None)
        for view in extra:
            assert view.teacher is not None
            both = self.gather(view.student.logits_BK), self.gather(view.teacher.logits_BK)
            terms["augmented_value"], terms["augmented_rank"] = self._terms(*both, self._chosen(teacher_BK))
        return terms
