"""Several methods at once, as papers combine them (kd+crd): their terms added up, cross-entropy counted once."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, FirstStage, InputError, ModelOutput, Signal, Stream, View


class Combined(Distiller):
    """`parts` by name, in the order in which they were named.

    A part's terms are called part.term; the cross-entropy is that of the first part which has one. Two parts with a
    first stage, or with other views under one name, are refused.
    """

    def __init__(self, parts: Mapping[str, Distiller]) -> None:
        super().__init__(None)
        self.parts = nn.ModuleDict(parts)
        self.methods = list(parts.values())
        self.views = [0] * len(self.methods)
        self.widths: list[int] = []  # columns of each learner's digest
        self.needs = Signal.NONE
        for method in self.methods:
            self.needs |= method.needs
        self.student_features = any(m.student_features for m in self.methods)
        self.teacher_pass = any(m.teacher_pass for m in self.methods)
        self.relates_samples = any(m.relates_samples for m in self.methods)
        self.fixed_size = any(m.fixed_size for m in self.methods)
        self.capturable = all(m.capturable for m in self.methods)
        staged = [m for m in self.methods if m.first_stage is not None]
        if len(staged) > 1:
            raise InputError(f"{' and '.join(parts)}: two of them want a first stage of their own")
        self.staged = staged[0] if staged else None
        self.first_stage: FirstStage | None = staged[0].first_stage if staged else None
        self.first_stage_depth = staged[0].first_stage_depth if staged else None
        self.first_stage_trains = staged[0].first_stage_trains if staged else "own"
        self._check_streams()

    def _check_streams(self) -> None:
        for method in self.methods:
            for name, stream in method.streams.items():
                if self.streams[name] != stream:
                    raise InputError(
                        f"two parts want different views called {name!r}: {stream} and {self.streams[name]}"
                    )

    @property
    def combined(self) -> Mapping[str, Distiller]:
        """All parts."""
        return dict(zip(self.parts, self.methods, strict=True))

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Of all parts."""
        return {name: stream for method in self.methods for name, stream in method.streams.items()}

    @property
    def shown_streams(self) -> Mapping[str, Stream]:
        """Of all parts."""
        return {name: stream for method in self.methods for name, stream in method.shown_streams.items()}

    def main_batch(self, batch: Batch) -> Batch:
        """As the parts want it, one after the other."""
        for method in self.methods:
            batch = method.main_batch(batch)
        return batch

    def extra_batches(self, batch: Batch, teacher: ModelOutput | None) -> Sequence[Batch]:
        """Of all parts, in their order."""
        found = [method.extra_batches(batch, teacher) for method in self.methods]
        self.views = [len(batches) for batches in found]
        return [batch for batches in found for batch in batches]

    @property
    def _learners(self) -> list[Distiller]:
        return [method for method in self.methods if method.teacher_pass]

    def digest(self, logits_BK: Tensor) -> Tensor:
        """Those of the parts that learn, side by side."""
        digests = [method.digest(logits_BK) for method in self._learners]
        self.widths = [digest_BE.shape[1] for digest_BE in digests]
        return torch.cat(digests, dim=1)

    def learn(self, digest_NE: Tensor, label_N: Tensor) -> None:
        """By the parts that want it."""
        for method, own_NE in zip(self._learners, digest_NE.split(self.widths, dim=1), strict=True):
            method.learn(own_NE, label_N)

    def forward(
        self, student: ModelOutput, teacher: ModelOutput | None, batch: Batch, progress: Tensor, *extra: View
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        first = 0
        for name, method, count in zip(self.parts, self.methods, self.views, strict=True):
            own = method(student, teacher, batch, progress, *extra[first : first + count])
            first += count
            if "ce" in own and "ce" not in terms:
                terms["ce"] = own["ce"]
            terms |= {f"{name}.{term}": value for term, value in own.items() if term != "ce"}
        return terms

    def first_stage_modules(self) -> tuple[nn.Module, ...]:
        """Of the part that has a first stage."""
        return self.staged.first_stage_modules() if self.staged is not None else ()

    def first_stage_terms(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> dict[str, Tensor]:
        """Likewise."""
        assert self.staged is not None
        return self.staged.first_stage_terms(student, teacher, batch)

    def predictor(self) -> Distiller | None:
        """The part that predicts by other means than the student's own classifier, if there is one."""
        return next((method for method in self.methods if method.predictor() is not None), None)

    def predict(self, student: ModelOutput) -> Tensor:
        """As that part does."""
        other = self.predictor()
        return student.logits_BK if other is None else other.predict(student)
