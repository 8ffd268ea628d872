"""The types that cross borders between the parts. Imports torch only.

Shapes in names: B batch, C channels, H height, W width, K classes, D pooled width, N samples.
"""

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts.batch import Batch, Stream
from pipeline.utils.atomic import disk_refuses


class InputError(Exception):
    """Something the user gave (data, file, argument) cannot be used: one line on stderr, exit code 2."""


class NotWritten(Exception):
    """A file could not be written though what was asked is fine (a full disk): one line on stderr, exit code 1."""


def unwritten(text: str, error: OSError) -> Exception:
    """What to raise where writing failed: NotWritten when the disk refuses, InputError for a path that is wrong."""
    return (NotWritten if disk_refuses(error) else InputError)(f"{text}: {error.strerror or error}")


class Signal(enum.Flag):
    """What a method asks of its teacher, and what a teacher source provides."""

    NONE = 0
    LOGITS = enum.auto()
    POOLED = enum.auto()
    FEATURES = enum.auto()
    WEIGHTS = enum.auto()


class ModelOutput(NamedTuple):
    """What a network returns.

    logits_BK; pooled_BD: the input of the classifier; features: stem output and one map per stage (B C H W), () unless
    asked for; preact_features: the same maps before their last activation, () where the network has none.
    """

    logits_BK: Tensor
    pooled_BD: Tensor
    features: tuple[Tensor, ...] = ()
    preact_features: tuple[Tensor, ...] = ()

    def float(self) -> "ModelOutput":
        """The same in float32 (a no-op for what is float32 or float64): losses are not computed in half precision."""

        def up(x: Tensor) -> Tensor:
            return x.float() if x.itemsize < 4 else x

        return ModelOutput(
            up(self.logits_BK),
            up(self.pooled_BD),
            tuple(up(f) for f in self.features),
            tuple(up(f) for f in self.preact_features),
        )


class Loader(Protocol):
    """Pixels on the device, in the order and the windows that the law of views gives.

    drafts: set, to allow batches whose pixels are still to be made (Batch.draft).
    """

    num_samples: int
    replayable: bool
    drafts: bool

    @property
    def pixels(self) -> str:
        """Names the pixels that come of a view: two loaders that say the same show the same, bit for bit."""

    @property
    def replaced(self) -> Mapping[int, Mapping[str, Any]]:
        """Images known to be unreadable, by position: split, index, file, class, shown, reason."""

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Start at `first_step` of `epoch` (both from 0) at the next iteration."""

    def __len__(self) -> int:
        """Global batches per epoch, the short last one included."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, int]:
        """{'epoch', 'step'}: the batch that comes next."""

    def load_state_dict(self, state: Mapping[str, int]) -> None: ...


class TeacherSource(Protocol):
    """Where the teacher's outputs come from: a live network, or records written ahead of time.

    views: number of different views that it knows, None = all. recorded: its outputs are looked up, not computed.
    modules: the networks that a call may run; their buffers (statistics in training mode) may change.
    """

    provides: Signal
    views: int | None
    recorded: bool

    @property
    def compares(self) -> bool:
        """Whether it looks at the next batch's pixels all the same, to compare its records with the live teacher."""

    @property
    def network(self) -> Any:
        """The network behind it, an nn.Module; None where there is none."""

    def modules(self) -> Sequence[nn.Module]: ...

    def __call__(self, batch: Batch) -> ModelOutput | None: ...


class Shapes(NamedTuple):
    """What a network returns for one image: classes, pooled width, and (channels, height, width) of each map.

    preact is () where the network has no pre-activation maps.
    """

    classes: int
    pooled: int
    features: tuple[tuple[int, int, int], ...]
    preact: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a method may know of the run that it is built for.

    student, teacher: shapes at the run's image size. classifier: the teacher's last layer, frozen, for methods that
    need WEIGHTS; norms: the teacher's BN before each stage's last ReLU (Network.bn_before_relu), likewise. label_N:
    class of each training sample, int64, by its position in the full training set. batch_size: global.
    """

    student: Shapes
    teacher: Shapes | None = None
    classifier: nn.Linear | None = None
    norms: tuple[nn.BatchNorm2d, ...] = ()
    label_N: Tensor | None = None
    batch_size: int = 64
    epochs: int = 240
    seed: int = 0
    label_smoothing: float = 0.0


class View(NamedTuple):
    """A further batch that a method asked for, as both networks saw it."""

    student: ModelOutput
    teacher: ModelOutput | None
    batch: Batch


class FirstStage(NamedTuple):
    """A stage before the training proper: its epochs and constant learning rate; the loop is the same."""

    epochs: int
    lr: float


class Distiller(nn.Module):
    """A method: turns student and teacher outputs into named loss terms, which the engine sums.

    It owns its regressors, embeddings and memory banks, never a network; it never calls the teacher, never moves a
    tensor to a device, and knows nothing of DDP, AMP, caches or data sets. `Config` (a frozen keyword-only dataclass)
    holds its hyper-parameters; `variants` names its origins, the default first.

    needs, student_features: what it reads of the teacher, and if of the student too. teacher_pass: `learn` wants
    the teacher's logits over the training set before step one. first_stage, first_stage_trains, first_stage_depth:
    see FirstStage; the student's stem and stages (never its classifier) up to a depth, own modules, or both.
    relates_samples: it calls `gather`. teacher_in_train_mode, teacher_probed: variants whose official code leaves the
    teacher (R2KD: its pruned copy) in training mode, or runs it so on noise once. revised: variants that compute other
    numbers than in earlier versions, and how. forms: by variant, the form that both networks are brought to
    (models/cam.py). modifier: in a combination it changes others and adds no terms. fixed_size: it takes maps of the
    sizes it was built for only; growing images are refused. chooses_images: its extra batches show images that it picks
    by the teacher's output (batch.info.stream None). capturable: no value on the device decides its step or a shape.
    """

    Config: ClassVar[type]
    variants: ClassVar[Mapping[str, str]] = {"paper": "the published formula; every known implementation agrees"}
    needs: Signal = Signal.LOGITS
    student_features: bool = False
    teacher_pass: bool = False
    first_stage: FirstStage | None = None
    first_stage_trains: Literal["stages", "own", "stages+own"] = "stages+own"
    first_stage_depth: int | None = None
    relates_samples: bool = False
    teacher_in_train_mode: ClassVar[frozenset[str]] = frozenset()
    teacher_probed: ClassVar[frozenset[str]] = frozenset()
    revised: ClassVar[Mapping[str, str]] = {}
    forms: ClassVar[Mapping[str, str]] = {}
    modifier: ClassVar[bool] = False
    chooses_images: ClassVar[bool] = False
    stands_alone: ClassVar[bool] = True
    is_stage: ClassVar[bool] = False  # another method's first stage (engine/first_stage.py)
    fixed_size: bool = False
    capturable: bool = True

    def __init__(self, config: Any, setting: Setting | None = None, variant: str = "default") -> None:
        super().__init__()
        self.config = config
        self.variant = next(iter(self.variants)) if variant == "default" else variant
        self.gather_rows: Callable[[Tensor], Tensor] = _own_rows
        self.label_smoothing = 0.0 if setting is None else setting.label_smoothing

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Further views by name; {} for most methods."""
        return {}

    @property
    def shown_streams(self) -> Mapping[str, Stream]:
        """Those of `streams` that both networks see as they are: what a teacher cache must hold."""
        return {} if self.chooses_images else self.streams

    def gather(self, x_B: Tensor) -> Tensor:
        """The rows of all ranks in the order of the global batch, with gradient; x_B itself on one rank.

        For methods that relate the samples of a batch. Gather as little as the formula allows: the mean over the
        global batch of a loss that treats samples one by one needs none.
        """
        return self.gather_rows(x_B)

    def task_loss(self, logits_BK: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy with the labels, mean over the batch, a scalar: the term `ce`.

        label_smoothing of the target is spread over all classes (Szegedy et al. 2016, arXiv 1512.00567, section 7).
        """
        return F.cross_entropy(logits_BK, batch.label_B, label_smoothing=self.label_smoothing)

    def main_batch(self, batch: Batch) -> Batch:
        """What takes the place of the ordinary view, for methods that train on another one (a mixed stream)."""
        return batch

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        """Further batches that the engine runs both networks on; they come back as `extra`, in order."""
        return ()

    def digest(self, logits_BK: Tensor) -> Tensor:
        """[B, E]: what `learn` wants of the teacher's logits; as few numbers as it can be, they are kept for all N."""
        return logits_BK

    def learn(self, digest_NE: Tensor, label_N: Tensor) -> None:
        """Takes the digests of the training set, by sample, before the first step (teacher_pass)."""

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        """Named scalar terms. `progress`: completed epochs with fraction, a 0-d tensor."""
        raise NotImplementedError

    def first_stage_modules(self) -> tuple[nn.Module, ...]:
        """Own modules that the first stage trains; they are frozen otherwise."""
        return ()

    def first_stage_terms(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def predict(self, student: ModelOutput) -> Tensor:
        """logits_BK that inference uses; a method that predicts otherwise overrides this."""
        return student.logits_BK

    @staticmethod
    def predict_by_student(student: ModelOutput) -> Tensor:
        """logits_BK of the student's own classifier."""
        return student.logits_BK

    def predictor(self) -> "Distiller | None":
        """The method that `predict` needs at inference: itself, where it overrides it. It goes into the student's file.

        Such a class has `for_inference(config, state, student)`, which builds it from that state without a teacher.
        """
        return self if type(self).predict is not Distiller.predict else None

    @classmethod
    def for_inference(cls, config: Any, state: Mapping[str, Tensor], student: Shapes) -> "Distiller":
        """See `predictor`."""
        raise NotImplementedError

    @property
    def combined(self) -> Mapping[str, "Distiller"]:
        """The methods that it puts together, by name."""
        return {}

    def added_parameters(self) -> int:
        """Number of trainable numbers that the method adds to the student."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)


def _own_rows(x_B: Tensor) -> Tensor:
    return x_B
