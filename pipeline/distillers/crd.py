"""Contrastive Representation Distillation. Tian, Krishnan and Isola 2020 (arXiv 1910.10699): the NCE bound."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.maps import teacher_shapes, unit_rows
from pipeline.distillers.common.negatives import Negatives, nce_loss
from pipeline.distillers.common.terms import LabelWeights, label_terms


@DISTILLERS.register("crd")
class CRD(Distiller):
    """ce_weight * CE + feat_weight * (nce of student and teacher bank + nce of teacher and student bank) (+ KD).

    RepDistiller is the authors' code; mdistiller and SimKD compute the same, so `original` stands for all three and is
    the default: their numbers are the published ones. Positives and negatives are rows of two banks [N, dim] of earlier
    embeddings, updated after scoring with momentum. Z is N * mean(exp(score)) of the first global batch. Both
    embeddings are trained. Embeddings and indices are gathered, so that the banks of all ranks stay equal.

    A product with the whole bank and a look-up costs 0.4 GFLOP and 13 MB for 64 rows of CIFAR; the published look-up of
    64 * 16,385 rows of 128 numbers copies 540 MB per bank.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """dim: of the embedding; K: negatives per sample; nce_T: temperature of the similarities; momentum: of the
        banks; mode: positive = the sample's own row (exact) or that of a random sample of its class (relax);
        feat_weight: of the contrastive loss.
        """

        dim: Annotated[int, Field(ge=1, le=8192)] = 128
        K: Annotated[int, Field(ge=1)] = 16384
        nce_T: Annotated[float, Field(gt=0)] = 0.07
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
        mode: Literal["exact", "relax"] = "exact"
        feat_weight: Annotated[float, Field(ge=0)] = 0.8

    variants: ClassVar[Mapping[str, str]] = {
        "original": "RepDistiller (the authors), mdistiller, SimKD: similarities divided by the Z of the first batch",
        "paper": "the printed critic exp(score) / (exp(score) + K / N): no Z, no 1e-7",
    }
    relates_samples = True
    needs = Signal.LOGITS | Signal.POOLED

    temperature: Tensor
    memory_student: Tensor
    memory_teacher: Tensor
    normaliser_2: Tensor
    step: Tensor

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        setting, teacher = teacher_shapes(setting, "crd")
        assert setting.label_N is not None
        samples = setting.label_N.numel()
        self.embed_student = nn.Linear(setting.student.pooled, config.dim)
        self.embed_teacher = nn.Linear(teacher.pooled, config.dim)
        self.negatives = Negatives(setting.label_N, config.K, setting.seed)
        self.positives = {"exact": _itself, "relax": self.negatives.related}[config.mode]
        self.noise = config.K / samples
        self.eps, unset = {"original": (1e-7, 0.0), "paper": (0.0, 1.0)}[self.variant]
        bound = 1 / math.sqrt(config.dim / 3)  # rows of expected norm 1
        self.register_buffer("memory_student", torch.empty(samples, config.dim).uniform_(-bound, bound))
        self.register_buffer("memory_teacher", torch.empty(samples, config.dim).uniform_(-bound, bound))
        # Float32 as in the published code, which keeps it in a tensor.
        self.register_buffer("temperature", torch.tensor(config.nce_T))
        self.register_buffer("normaliser_2", torch.full((2,), unset))  # 0: not set yet
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        u_BD = unit_rows(self.embed_student(student.pooled_BD))
        w_BD = unit_rows(self.embed_teacher(teacher.pooled_BD))
        place_BJ = self._places(batch)
        score_BJ = self._scores(u_BD, self.memory_teacher, place_BJ)
        mirrored_BJ = self._scores(w_BD, self.memory_student, place_BJ)
        z_2 = self._settle(batch.index_B, u_BD.detach(), w_BD.detach(), score_BJ.detach(), mirrored_BJ.detach())
        log_z_2 = z_2.log()
        nce = nce_loss(score_BJ, log_z_2[0], self.noise, self.eps)
        nce = nce + nce_loss(mirrored_BJ, log_z_2[1], self.noise, self.eps)
        return label_terms(self, student, teacher, batch) | {"crd": self.config.feat_weight * nce}

    def _places(self, batch: Batch) -> Tensor:
        """Rows of the banks, int64 [B, 1 + K]: the positive, then the negatives."""
        positive_B = self.positives(batch.index_B, batch.label_B, self.step)
        return torch.cat([positive_B[:, None], self.negatives(batch.index_B, batch.label_B, self.step)], dim=1)

    def _scores(self, x_BD: Tensor, memory_ND: Tensor, place_BJ: Tensor) -> Tensor:
        # A copy: the bank changes before the backward pass wants it.
        return (x_BD @ memory_ND.clone().T).gather(1, place_BJ) / self.temperature

    @torch.no_grad()
    def _settle(self, index_B: Tensor, u_BD: Tensor, w_BD: Tensor, score_BJ: Tensor, mirrored_BJ: Tensor) -> Tensor:
        """Z of both sides, [2]. In training also the banks' new rows, those of all ranks."""
        mean_B2 = torch.stack([score_BJ.exp().mean(dim=1), mirrored_BJ.exp().mean(dim=1)], dim=1)
        rows_BE = torch.cat([u_BD, w_BD, mean_B2], dim=1)
        rows_BE = self.gather(rows_BE) if self.training else rows_BE
        fresh_2 = rows_BE[:, -2:].mean(dim=0) * len(self.memory_student)
        z_2 = torch.where(self.normaliser_2 > 0, self.normaliser_2, fresh_2)
        if self.training:
            index_B = self.gather(index_B)
            self.normaliser_2.copy_(z_2)
            dim = self.config.dim
            for memory_ND, row_BD in (
                (self.memory_student, rows_BE[:, :dim]),
                (self.memory_teacher, rows_BE[:, dim : 2 * dim]),
            ):
                mixed_BD = memory_ND[index_B].lerp(row_BD, 1 - self.config.momentum)
                memory_ND.index_copy_(0, index_B, unit_rows(mixed_BD))
            self.step.add_(1)
        return z_2


def _itself(index_B: Tensor, label_B: Tensor, step: Tensor) -> Tensor:
    return index_B
