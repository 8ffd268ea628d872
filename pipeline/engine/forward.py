"""The one module with gradients: student and method together. Compiled first, then wrapped in DDP."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, View
from pipeline.contracts.broken import broken_by

TASK = "ce"  # the term that update rules which tell kinds of losses apart take for the task's


class StepOutput(NamedTuple):
    """loss: scalar sum of the terms; terms: named scalars, without gradient; logits_BK: of the student, likewise; task:
    the cross-entropy's part of the loss, with gradient (0 where there is none)."""

    loss: Tensor
    terms: dict[str, Tensor]
    logits_BK: Tensor
    task: Tensor | None = None

    @classmethod
    def merged(cls, outputs: list["StepOutput"]) -> "StepOutput":
        """The slices of one batch as one output; non-finite values of any slice stay visible in the means."""
        if len(outputs) == 1:
            return outputs[0]
        same_terms(*(o.terms for o in outputs))
        terms = {name: torch.stack([o.terms[name].reshape(()) for o in outputs]).mean() for name in outputs[0].terms}
        loss = torch.stack([o.loss.detach() for o in outputs]).mean()
        return cls(loss, terms, torch.cat([o.logits_BK for o in outputs]))


def same_terms(*names: Iterable[str]) -> None:
    """Raises InputError where a method's terms have other names than before: sums over an epoch would mix them."""
    first, *others = (list(one) for one in names)
    other = next((one for one in others if one != first), None)
    if other is not None:
        raise InputError(
            f"the method returned the terms {', '.join(first)}, then {', '.join(other)}: name the same ones at each "
            "step, and give 0 for one that does not apply"
        )


def _check(terms: Any, method: Distiller) -> None:
    """Raises InputError for what is no mapping of named scalars."""
    named = isinstance(terms, Mapping) and len(terms) > 0
    if not named or any(not isinstance(term, Tensor) or term.numel() != 1 for term in terms.values()):
        raise InputError(
            f"{type(method).__name__}.forward returned {_told(terms)}; it must return named scalar tensors"
        )


def _told(terms: Any) -> str:
    if not isinstance(terms, Mapping):
        return f"a {type(terms).__name__}"
    shapes = (f"{k}: {list(v.shape) if isinstance(v, Tensor) else type(v).__name__}" for k, v in terms.items())
    return f"{{{', '.join(shapes)}}}"


class Taught(NamedTuple):
    """A batch, and what the teacher says of it."""

    batch: Batch
    teacher: ModelOutput | None


class DistillationStep(nn.Module):
    """Student forward under autocast, losses in float32 outside it."""

    def __init__(
        self, student: nn.Module, distiller: Distiller, autocast: Callable[[], AbstractContextManager[object]]
    ) -> None:
        super().__init__()
        self.student = student
        self.distiller = distiller
        self.autocast = autocast

    def forward(self, progress: Tensor, *taught: Taught) -> StepOutput:
        """taught: the batch, and those that the method asked for (Distiller.extra_batches).

        Of their `info` nothing is read: a number of the host would be compiled into the step.
        """
        outputs = []
        for batch, _ in taught:
            with self.autocast():
                output: ModelOutput = self.student(batch.image_BCHW, features=self.distiller.student_features)
            outputs.append(output.float())
        student, first, views = _as_asked(outputs, taught)
        terms = self.distiller(student, first.teacher, first.batch, progress, *views)
        _check(terms, self.distiller)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        task = terms[TASK].reshape(()) if TASK in terms else loss.new_zeros(())
        return StepOutput(loss, {k: v.detach() for k, v in terms.items()}, student.logits_BK.detach(), task)

    def broken(self, name: str, progress: Tensor, *taught: Taught) -> str | None:
        """What the answer of method `name` breaks of the contract, in eval mode: statistics over ranks would be waited
        for. None where the error is another one."""
        self.eval()
        outputs = []
        for batch, _ in taught:
            with self.autocast():
                outputs.append(self.student(batch.image_BCHW, features=self.distiller.student_features).float())
        student, first, views = _as_asked(outputs, taught)
        return broken_by(self.distiller, name, student, first.teacher, first.batch, progress, views)


def _as_asked(outputs: Sequence[ModelOutput], taught: Sequence[Taught]) -> tuple[ModelOutput, Taught, list[View]]:
    (student, *others), (first, *extra) = outputs, taught
    return (
        student,
        first,
        [View(output, teacher, batch) for output, (batch, teacher) in zip(others, extra, strict=True)],
    )
