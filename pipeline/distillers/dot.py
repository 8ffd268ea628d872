"""DOT, an update rule for any method: Zhao et al. 2023 (ICCV, arXiv 2307.08436). See engine/optimizers/dot.py."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Signal, View
from pipeline.distillers import DISTILLERS


@DISTILLERS.register("dot")
class Dot(Distiller):
    """`method=dkd+dot`: the other parts' terms, updated by optim.name=dot. It has no terms and does not stand alone."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Its one number is optim.dot_delta."""

    needs = Signal.NONE
    modifier = True
    stands_alone = False

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        raise NotImplementedError("dot is part of a combination")
