"""FitNets: hints for thin deep nets. Romero et al. 2015 (arXiv 1412.6550), equations 3 and 4."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, FirstStage, InputError, ModelOutput, Setting, Signal, View
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.layers import BatchNorm, conv_between, fits_one_size
from pipeline.distillers.common.maps import Shape, pool_to
from pipeline.distillers.common.stages import both_shapes
from pipeline.distillers.common.terms import LabelWeights, label_terms

# Eq. 4 of the paper: lambda falls from 4 to 1 over the training, temperature 3.
LAMBDA_FIRST, LAMBDA_LAST, TAU = 4.0, 1.0, 3.0


class Regressor(nn.Module):
    """Convolution from the student's map to the teacher's size (C, H, W), then BN (unless plain) and ReLU.

    A student map that is smaller in another ratio than 1 : 2 is an InputError, or with pools=True a 3x3 convolution
    of the student's own size.
    """

    def __init__(self, student: Shape, teacher: Shape, *, plain: bool = False, pools: bool = False) -> None:
        super().__init__()
        smaller = pools and student[1] < teacher[1] != 2 * student[1]
        self.conv = nn.Conv2d(student[0], teacher[0], 3, padding=1) if smaller else conv_between(student, teacher)
        self.bn: nn.Module = nn.Identity() if plain else BatchNorm(teacher[0])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The student's map as the teacher's."""
        return F.relu(self.bn(self.conv(x_BCHW)))


def hint_loss(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference, a scalar, the teacher's map pooled to the student's size where they differ."""
    return F.mse_loss(student_BCHW, pool_to(teacher_BCHW, *student_BCHW.shape[-2:]))


@DISTILLERS.register("fitnet", "hint", "fitnets")
class FitNet(Distiller):
    """ce_weight * cross-entropy + feat_weight * hint_loss of one pair of maps (+ KD).

    RepDistiller, mdistiller and SimKD train regressor and student together from the start, with BN in the regressor:
    the source of the published tables, and the default. The paper first trains the student up to the hint (half the
    mean of squares; eq. 3 sums, the factor is feat_weight's), then the whole student on labels and softened outputs,
    with its own weight and temperature: kd_weight and T are not read.
    mdistiller learns the maps' shapes by a forward of noise in training mode, which leaves a tenth of one N(0, 1) image
    in the teacher's BN statistics. No loss can bring that about: teacher_probed names the variant.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(LabelWeights):
        """hint_layer: of both lists of maps, 0 is the stem; feat_weight: of hint_loss.

        first_epochs, first_lr: length and learning rate of the first stage (variant paper).
        """

        hint_layer: Annotated[int, Field(ge=0)] = 2
        feat_weight: Annotated[float, Field(ge=0)] = 100.0
        first_epochs: Annotated[int, Field(ge=1)] = 30
        first_lr: Annotated[float, Field(gt=0)] = 0.01

    variants: ClassVar[Mapping[str, str]] = {
        "repdistiller": "one stage; conv-BN-ReLU regressor",
        "mdistiller": "as repdistiller, of a teacher probed with noise",
        "simkd": "as repdistiller, and the teacher's map is pooled where no regressor fits",
        "paper": "first a stage of hints alone (no BN in the regressor), then labels and softened outputs",
    }
    teacher_probed: ClassVar[frozenset[str]] = frozenset({"mdistiller"})
    needs = Signal.LOGITS | Signal.FEATURES
    student_features = True
    first_stage_trains: Literal["stages", "own", "stages+own"] = "stages+own"

    def __init__(self, config: Config, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__(config, setting, variant)
        student, teacher = both_shapes(setting, "fitnet")
        most = min(len(student.features), len(teacher.features)) - 1
        if config.hint_layer > most:
            raise InputError(f"fitnet: hint_layer={config.hint_layer}, but the networks share maps 0 to {most} only")
        staged = {"paper": True}.get(self.variant, False)
        sizes = student.features[config.hint_layer], teacher.features[config.hint_layer]
        self.regressor = Regressor(*sizes, plain=staged, pools={"simkd": True}.get(self.variant, False))
        self.fixed_size = fits_one_size(*sizes)
        self.epochs = setting.epochs if setting is not None else 1
        self.main = self.staged_terms if staged else self.joint_terms
        self.first_stage = FirstStage(config.first_epochs, config.first_lr) if staged else None
        self.first_stage_depth = config.hint_layer + 1  # maps that eq. 3 reaches: the layers behind them stand still
        self.regressor.requires_grad_(not staged)

    def first_stage_modules(self) -> tuple[nn.Module, ...]:
        """Own modules that the first stage trains; they are frozen outside it."""
        return (self.regressor,) if self.first_stage is not None else ()

    def hint(self, student: ModelOutput, teacher: ModelOutput) -> Tensor:
        """hint_loss of the chosen maps, without weight."""
        layer = self.config.hint_layer
        return hint_loss(self.regressor(student.features[layer]), teacher.features[layer])

    def first_stage_terms(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Eq. 3: the layers up to the hint and the regressor learn, nothing else gets a gradient."""
        return {"hint": self.config.feat_weight / 2 * self.hint(student, teacher)}

    def joint_terms(
        self, student: ModelOutput, teacher: ModelOutput, batch: Batch, progress: Tensor
    ) -> dict[str, Tensor]:
        """Labels and hint at once."""
        terms = label_terms(self, student, teacher, batch)
        return terms | {"fitnet": self.config.feat_weight * self.hint(student, teacher)}

    def staged_terms(
        self, student: ModelOutput, teacher: ModelOutput, batch: Batch, progress: Tensor
    ) -> dict[str, Tensor]:
        """Eq. 4. The regressor's work is done."""
        done = (progress / self.epochs).clamp(0, 1).to(student.logits_BK.dtype)
        weight = LAMBDA_FIRST + (LAMBDA_LAST - LAMBDA_FIRST) * done
        soft = F.cross_entropy(student.logits_BK / TAU, F.softmax(teacher.logits_BK / TAU, dim=1))
        return {"ce": self.config.ce_weight * self.task_loss(student.logits_BK, batch), "kd": weight * soft}

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        assert teacher is not None
        return self.main(student, teacher, batch, progress)
