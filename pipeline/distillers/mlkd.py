"""Multi-level logit distillation. Jin, Wang and Lin 2023 (CVPR, pp. 24276-24285), sections 3.2 and 3.3."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Stream, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.kd import kd_loss
from pipeline.distillers.lskd import standardise

Positive = Annotated[float, Field(gt=0)]


def batch_gap(student_BK: Tensor, teacher_BK: Tensor, T: float) -> Tensor:
    """||P_t P_t^T - P_s P_s^T||_F^2 / B: how samples relate to samples. P = softmax at T."""
    p_BK, q_BK = F.softmax(student_BK / T, dim=1), F.softmax(teacher_BK / T, dim=1)
    return (q_BK @ q_BK.T - p_BK @ p_BK.T).square().sum() / len(p_BK)


def class_gap(student_BK: Tensor, teacher_BK: Tensor, T: float) -> Tensor:
    """||P_t^T P_t - P_s^T P_s||_F^2 / K: how classes relate to classes."""
    p_BK, q_BK = F.softmax(student_BK / T, dim=1), F.softmax(teacher_BK / T, dim=1)
    return (q_BK.T @ q_BK - p_BK.T @ p_BK).square().sum() / p_BK.shape[1]


def share_up_to_median(value_N: Tensor) -> Tensor:
    """Share of the entries that are not above the median, a 0-d tensor: .5 but for ties and odd N."""
    sorted_N, last = value_N.sort().values, len(value_N) - 1
    below, above = sorted_N[last // 2], sorted_N[(last + 1) // 2]
    # The bits of quantile(0.5), which on a CPU is read by the host in torch 2.11 (runtime.compile=graph).
    return (value_N <= above - (above - below) * 0.5).to(value_N.dtype).mean()


class Form(NamedTuple):
    """gated: terms are scaled by the shares of unsure samples and classes. weak_again: temperatures (of further_T)
    whose second divergence is again that of the weak view."""

    gated: bool
    weak_again: frozenset[float]


FORMS = {"original": Form(True, frozenset((2.0, 6.0))), "paper": Form(False, frozenset())}


@DISTILLERS.register("mlkd", "mlld", "kd_ours")
class MLKD(Distiller):
    """Cross-entropy and KL of a weak and a strong view at several temperatures, Gram matrices of the weak view.

    The official code (R2KD's and LSKD's copies are the same) multiplies by the shares b, k of samples and classes
    whose confidence is not above the median, about .5, where it means to mask; and its strong view's divergences at 2
    and 6 are those of the weak view, a slip. The default is that code, because the published accuracies and weights
    are its; `paper` has neither.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T, further_T: temperatures; standardise: z-scores in the KL terms (LSKD, with T=2, kd_weight=9); ce_weight:
        of both views' cross-entropies; kd_weight: of all else."""

        T: Positive = 4.0
        further_T: tuple[Positive, ...] = (2.0, 3.0, 5.0, 6.0)
        ce_weight: Annotated[float, Field(ge=0)] = 0.1
        kd_weight: Annotated[float, Field(ge=0)] = 0.9
        standardise: bool = False

    relates_samples = True
    variants: ClassVar[Mapping[str, str]] = {
        "original": "the official code: scaled by the shares below the median, weak view again at T = 2 and 6",
        "paper": "both views at every temperature, unscaled",
    }

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.form = FORMS[self.variant]
        self.temperatures = (config.T, *config.further_T)
        self.strong_at = (config.T, *(T for T in config.further_T if T not in self.form.weak_again))
        self.weak_again_at = tuple(T for T in config.further_T if T in self.form.weak_again)

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The strong view."""
        return {"strong": Stream(kind="strong")}

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        """The strong view of the same samples."""
        return [batch.showing("strong")]

    def _divergences(self, weak: tuple[Tensor, Tensor], strong: tuple[Tensor, Tensor], gate: Tensor) -> Tensor:
        if self.config.standardise:
            weak = standardise(weak[0]), standardise(weak[1])
            strong = standardise(strong[0]), standardise(strong[1])
        first = [kd_loss(*weak, T) for T in self.temperatures]
        second = [kd_loss(*strong, T) for T in self.strong_at] + [kd_loss(*weak, T) for T in self.weak_again_at]
        return gate * torch.stack(first).sum() + torch.stack(second).sum()

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        strong = extra[0]
        assert teacher is not None and strong.teacher is not None
        c = self.config
        both = (student, batch), (strong.student, strong.batch)
        ce = torch.stack([self.task_loss(output.logits_BK, seen) for output, seen in both]).sum()
        student_BK, teacher_BK = self.gather(student.logits_BK), self.gather(teacher.logits_BK)
        p_BK = F.softmax(teacher_BK.detach(), dim=1)
        of_samples, of_classes = p_BK.new_ones(2).unbind()
        if self.form.gated:
            of_samples, of_classes = share_up_to_median(p_BK.amax(dim=1)), share_up_to_median(p_BK.sum(dim=0))
        weak_pair = student.logits_BK, teacher.logits_BK
        strong_pair = strong.student.logits_BK, strong.teacher.logits_BK
        by_class, by_batch = (
            torch.stack([gap(student_BK, teacher_BK, T) for T in self.temperatures]).sum()
            for gap in (class_gap, batch_gap)
        )
        return {
            "ce": c.ce_weight * ce,
            "kd": c.kd_weight * self._divergences(weak_pair, strong_pair, of_samples),
            "class": c.kd_weight * of_classes * by_class,
            "batch": c.kd_weight * of_samples * by_batch,
        }
