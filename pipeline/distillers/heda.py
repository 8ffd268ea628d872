"""HE-DA: mixed images for samples of outlying energy. Kim, Ham, Lee, Jang and Kim 2023 (arXiv 2311.14334)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Signal, Stream, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.energy import EnergyBands
from pipeline.distillers.common.mixed_rows import MIXERS, chosen_rows, permuted
from pipeline.distillers.energykd import kl_rows
from pipeline.distillers.kd import kd_loss
from pipeline.views import Stream as Draws
from pipeline.views import words

OWN_DRAW = 2**32 - 1  # no step number: the partners of the mixed streams draw with those


@DISTILLERS.register("heda", "he-da", "energy_aug", "energyaug")
class HEDA(Distiller):
    """ce_weight * cross-entropy + kd_weight * (kd_loss + kd_loss of the mixed sub-batch, which has no labels).

    The sub-batch: the rows of outlying energy of the global batch, each mixed with another of them; weight and box are
    those of the stream `mixed`, the partners a function of (seed, view, sample). The authors' code, the default, puts
    the first two rows before them, so that it is never empty. A rank runs the rows that it has, or, when it has none,
    its first two with weight 0. The number of rows changes from step to step: each costs one host synchronisation.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """T: temperature; augment: kind of mixing, Beta(1, 1) for cutmix and Beta(.2, .2) for mixup.

        energy_T: temperature of the energy; low_rate, high_rate: shares of the training set beyond the thresholds.
        """

        T: Annotated[float, Field(gt=0)] = 4.0
        augment: Literal["cutmix", "mixup"] = "cutmix"
        energy_T: Annotated[float, Field(gt=0)] = 4.0
        low_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
        high_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5
        ce_weight: Annotated[float, Field(ge=0)] = 0.1
        kd_weight: Annotated[float, Field(ge=0)] = 0.9

    variants: ClassVar[Mapping[str, str]] = {
        "energykd": "rows 0 and 1, then the outlying ones, mixed among themselves, as the authors' code",
        "paper": "the outlying rows alone; thresholds of all rows",
        "views": "rows as energykd, any partner of the batch, by the law of views: a cached teacher can serve it",
    }
    relates_samples = True
    needs = Signal.LOGITS
    teacher_pass = chooses_images = True
    capturable = False  # as many images as have an outlying energy

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        size = setting.batch_size if setting else 1
        self.seeds, size, self.mixed = {
            "energykd": (2, size, self._among_themselves),
            "paper": (0, 1, self._among_themselves),
            "views": (2, size, self._as_the_stream),
        }[self.variant]
        self.bands = EnergyBands(config.energy_T, config.low_rate, config.high_rate, size)
        self.seed = setting.seed if setting else 0
        self.mix_images = MIXERS[config.augment]

    @property
    def streams(self) -> Mapping[str, Stream]:
        return {"mixed": Stream(kind=self.config.augment, alpha={"cutmix": 1.0, "mixup": 0.2}[self.config.augment])}

    def digest(self, logits_BK: Tensor) -> Tensor:
        return self.bands.digest(logits_BK)

    def learn(self, digest_NE: Tensor, label_N: Tensor) -> None:
        self.bands.learn(digest_NE)

    def _outside(self, teacher: ModelOutput) -> Tensor:
        """float B: 1 for outlying energy."""
        return torch.stack(self.bands.outside(teacher.logits_BK)).any(dim=0).to(teacher.logits_BK.dtype)

    def _among_themselves(self, batch: Batch, row_M: Tensor, own_M: Tensor, index_G: Tensor) -> Tensor:
        key_G = words(self.seed, Draws.PARTNER, index_G, batch.info.view, OWN_DRAW)[0]
        image_GCHW = self.gather(batch.image_BCHW)
        image_MCHW, partner_MCHW = image_GCHW[row_M[own_M]], image_GCHW[permuted(row_M, key_G)[own_M]]
        return self.mix_images(image_MCHW, partner_MCHW, batch.mixes["mixed"])

    def _as_the_stream(self, batch: Batch, row_M: Tensor, own_M: Tensor, index_G: Tensor) -> Tensor:
        first = (index_G == batch.index_B[0]).nonzero()[0]
        return batch.streams["mixed"][row_M[own_M] - first]

    @torch.no_grad()
    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        assert teacher is not None
        index_G = self.gather(batch.index_B)
        first, rows = (index_G == batch.index_B[0]).nonzero()[0], len(batch.index_B)
        row_M = chosen_rows(self.gather(self._outside(teacher)), self.seeds)
        own_M = ((row_M >= first) & (row_M < first + rows)).nonzero().squeeze(1)
        if len(own_M) == 0:
            row_M = first + torch.arange(min(2, rows), device=row_M.device)
            own_M = torch.arange(len(row_M), device=row_M.device)
        here_M = row_M[own_M] - first
        image_MCHW = self.mixed(batch, row_M, own_M, index_G)
        info = batch.info._replace(stream=None, host_index_B=None)
        alone = replace(batch, streams={}, mixes={}, info=info)
        return [replace(alone, image_BCHW=image_MCHW, label_B=batch.label_B[here_M], index_B=batch.index_B[here_M])]

    def _share(self, teacher: ModelOutput, index_B: Tensor) -> Tensor:
        """0-d: this rank's part of the sub-batch over its part of the batch; 1 on one rank, 0 without rows."""
        outside_B, index_G = self._outside(teacher), self.gather(index_B)
        seed_S = index_G[: self.seeds]
        own = outside_B.sum() + (index_B[:, None] == seed_S).sum()
        chosen = self.gather(outside_B).sum() + len(seed_S)
        return own / chosen.clamp(min=1) * (len(index_G) / len(index_B))

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        (mixed,) = extra
        assert teacher is not None and mixed.teacher is not None
        c = self.config
        kl = kl_rows(mixed.student.logits_BK, mixed.teacher.logits_BK, c.T).mean()
        share = self._share(teacher, batch.index_B) + self.bands.unlearned()
        return {
            "ce": c.ce_weight * self.task_loss(student.logits_BK, batch),
            "kd": c.kd_weight * kd_loss(student.logits_BK, teacher.logits_BK, c.T),
            "aug": c.kd_weight * c.T**2 * share * kl,
        }
