"""R2KD. Kim, Ham, Cho and Kim 2023 (arXiv 2311.13934): correlation distance by value and by rank, augmented batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Stream, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.ranks import cosine, soft_spearman, spearman
from pipeline.distillers.common.uncertain import Chosen, most_uncertain


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


@DISTILLERS.register("r2kd")
class R2KD(Distiller):
    """ce_weight * cross-entropy + value_weight * value_loss + rank_weight * (1 - mean rank correlation), the last two
    again for the augmented view.

    The official code is the default, because the published weights are its. There the rank part is a
    constant to the optimiser, since sorting has no gradient: it moves the reported loss and nothing else. `paper`
    ranks softly, so that it teaches; the softness (rank_T) is ours. The teacher is .7 of the network and .3 of its
    pruned copy (teacher.source=pruned), which the official code leaves in training mode: see teacher_in_train_mode.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; *_weight: of the terms; augment: how the second view is made.

        rank_T: temperature of the soft ranks, in logits (variant paper). mixup_alpha, cutmix_alpha: of Beta(alpha,
        alpha); cutout_size: side in pixels; pick: samples of the global batch, those of the teacher's largest entropy
        (and their equals), whose augmented view counts (cutmixpick).
        """

        T: Annotated[float, Field(gt=0)] = 4.0
        ce_weight: Annotated[float, Field(ge=0)] = 1.0
        value_weight: Annotated[float, Field(ge=0)] = 2.0
        rank_weight: Annotated[float, Field(ge=0)] = 2.0
        rank_T: Annotated[float, Field(gt=0)] = 1.0
        augment: Literal["cutmix", "mixup", "cutout", "autoaug", "cutmixpick", "none"] = "cutmix"
        mixup_alpha: Annotated[float, Field(gt=0)] = 0.2
        cutmix_alpha: Annotated[float, Field(gt=0)] = 1.0
        cutout_size: Annotated[int, Field(ge=1)] = 8
        pick: Annotated[int, Field(ge=1)] = 64

    variants: ClassVar[Mapping[str, str]] = {
        "original": "ranks without gradient; cutmixpick by the unmixed images' entropy; pruned copy in training mode",
        "paper": "soft ranks with a gradient; cutmixpick by the mixed images' entropy; pruned copy in eval mode",
    }
    teacher_in_train_mode: ClassVar[frozenset[str]] = frozenset({"original"})  # of its pruned copy alone
    relates_samples = True

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
        self.picks_mixed = {"original": False, "paper": True}[self.variant]
        soft: Callable[[Tensor, Tensor], Tensor] = partial(soft_spearman, T=config.rank_T)
        self.correlation = {"original": spearman, "paper": soft}[self.variant]

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The augmented view, if any."""
        return self.augmented

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        """The augmented view of the same samples."""
        return [batch.showing(name) for name in self.augmented]

    def _chosen(self, teacher_BK: Tensor) -> Chosen | None:
        """The samples to pick. All are run: a batch keeps its shape and its ranks."""
        if self.picks is None:
            return None
        return most_uncertain(teacher_BK, self.picks, self.gather)

    def _terms(self, student_BK: Tensor, teacher_BK: Tensor, chosen: Chosen | None = None) -> tuple[Tensor, Tensor]:
        c = self.config
        correlation_B = self.correlation(student_BK, teacher_BK)
        student_GK, teacher_GK = self.gather(student_BK), self.gather(teacher_BK)
        if chosen is None:
            value = value_loss(student_GK, teacher_GK, c.T)
        else:
            value = value_loss(student_GK, teacher_GK, c.T, chosen.all_G)
            weight = len(chosen.all_G) / chosen.all_G.sum()
            correlation_B = correlation_B * (chosen.own_B * weight).to(correlation_B.dtype)
        return c.value_weight * value, (c.rank_weight * (1 - correlation_B.mean())).to(value.dtype)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        terms = {"ce": self.config.ce_weight * self.task_loss(student.logits_BK, batch)}
        terms["value"], terms["rank"] = self._terms(student.logits_BK, teacher.logits_BK)
        for view in extra:
            assert view.teacher is not None
            seen = view.teacher if self.picks_mixed else teacher
            found = self._terms(view.student.logits_BK, view.teacher.logits_BK, self._chosen(seen.logits_BK))
            terms["augmented_value"], terms["augmented_rank"] = found
        return terms
