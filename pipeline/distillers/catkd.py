"""Class attention transfer, CAT-KD. Guo et al. 2023 (CVPR, pp. 11868-11877): pooled class activation maps, matched."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS


def pooled_to(map_BKHW: Tensor, side: int) -> Tensor:
    """[B, K, side, side]: means over equal windows, or adaptive ones where side does not divide the map."""
    height, width = map_BKHW.shape[2:]
    if height % side or width % side:
        return F.adaptive_avg_pool2d(map_BKHW, side)
    # The same numbers; the adaptive one has no deterministic backward on CUDA.
    return F.avg_pool2d(map_BKHW, (height // side, width // side))


def unit(map_BKHW: Tensor) -> Tensor:
    """Each map divided by its L2 norm over space; an all-zero map stays 0, with gradient 0."""
    square_BK11 = map_BKHW.square().sum(dim=(2, 3), keepdim=True)
    nonzero_BK11 = square_BK11 > 0
    norm_BK11 = torch.where(nonzero_BK11, square_BK11, torch.ones_like(square_BK11)).sqrt()
    return torch.where(nonzero_BK11, map_BKHW / norm_BK11, torch.zeros_like(map_BKHW))


def binarised(map_BKHW: Tensor) -> Tensor:
    """1 where a map is above the mean of its absolute values, else 0."""
    return (map_BKHW > map_BKHW.abs().mean(dim=(2, 3), keepdim=True)).to(map_BKHW.dtype)


def extreme_classes(logits_BK: Tensor, count: int, sign: int) -> Tensor:
    """Ones for the `count` classes of largest sign * logit of each sample, zeros for the rest, [B, K]."""
    index_BN = (sign * logits_BK).topk(count, dim=1).indices
    return torch.zeros_like(logits_BK).scatter(1, index_BN, 1)


def cat_loss(
    student_BKHW: Tensor, teacher_BKHW: Tensor, side: int, *, normalise: bool, chosen_BK: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the maps pooled to side x side, each of unit norm if `normalise`; a scalar.

    chosen_BK: ones for the maps that count; None: all. The maps may differ in height and width.
    """
    shape = unit if normalise else (lambda map_BKHW: map_BKHW)
    student_BKSS, teacher_BKSS = shape(pooled_to(student_BKHW, side)), shape(pooled_to(teacher_BKHW, side))
    gap_BK = (student_BKSS - teacher_BKSS).square().mean(dim=(2, 3))
    return gap_BK.mean() if chosen_BK is None else (gap_BK * chosen_BK).sum() / chosen_BK.sum()


@DISTILLERS.register("catkd", "cat_kd", "cat-kd")
class CATKD(Distiller):
    """ce_weight * cross-entropy + cat_weight * cat_loss of class activation maps.

    Both networks are in class-activation form: their last map, features[-1], has one channel per class and its spatial
    mean is the logits; `forms` names the form that either variant wants of them (pipeline/models/cam.py). The default
    is the official code, because the published weights and accuracies are its: it drops the classifiers' biases, and
    transfers one class too few (`top`) or too many (`lowest`) when not all are. `paper` keeps biases and counts right.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """ce_weight: 0 transfers maps only; cat_weight: of the map loss; side: of the pooled maps in pixels.

        normalise: maps of unit norm; binarise: the teacher's maps as 0 and 1; classes, class_count: transfer only that
        many classes of the teacher's largest or smallest logits.
        """

        ce_weight: Annotated[float, Field(ge=0)] = 1.0
        cat_weight: Annotated[float, Field(ge=0)] = 15.0
        side: Annotated[int, Field(ge=1, le=1024)] = 2
        normalise: bool = False
        binarise: bool = False
        classes: Literal["all", "top", "lowest"] = "all"
        class_count: Annotated[int, Field(ge=1)] = 100

    variants: ClassVar[Mapping[str, str]] = {
        "original": "the official code: no classifier bias; one class off in the transfer of some classes",
        "paper": "classifier biases kept; exactly class_count classes",
    }
    forms: ClassVar[Mapping[str, str]] = {"original": "cam_without_bias", "paper": "cam"}
    off_by: ClassVar[Mapping[str, int]] = {"original": 1, "paper": 0}
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        self.sign = {"top": 1, "lowest": -1}.get(config.classes)
        self.count = config.class_count - (self.sign or 0) * self.off_by[self.variant]
        if setting is not None:
            self._check(setting)

    def _check(self, setting: Setting) -> None:
        assert setting.teacher is not None
        for side, shapes in (("student", setting.student), ("teacher", setting.teacher)):
            channels, height, width = shapes.features[-1] if shapes.features else (0, 0, 0)
            if channels != shapes.classes:
                raise InputError(
                    f"catkd: the {side} is not in class-activation form: {channels} channels in its last map"
                )
            if min(height, width) < self.config.side:
                raise InputError(
                    f"catkd: side={self.config.side} is more than the {side}'s {height} x {width} maps have"
                )
        if self.sign is not None and not 1 <= self.count <= setting.student.classes:
            raise InputError(f"catkd: class_count={self.config.class_count} of {setting.student.classes} classes")

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        c = self.config
        teacher_BKHW = binarised(teacher.features[-1]) if c.binarise else teacher.features[-1]
        chosen_BK = None if self.sign is None else extreme_classes(teacher.logits_BK, self.count, self.sign)
        loss = cat_loss(student.features[-1], teacher_BKHW, c.side, normalise=c.normalise, chosen_BK=chosen_BK)
        terms = {"cat": c.cat_weight * loss}
        if c.ce_weight:
            terms["ce"] = c.ce_weight * self.task_loss(student.logits_BK, batch)
        return terms
