"""How hard a method pulls on the student beside the cross-entropy, on random images: an inert weight shows at once.

Run by hand: python -m methods.gradient_shares METHOD[:VARIANT] ... (in tests/; without names, all of them).
"""

import sys

import torch
import torch.nn.functional as F
from methods import lab
from methods.lab import METHODS, Bench
from torch import Tensor

from pipeline.contracts import Batch, Distiller, InputError
from pipeline.distillers import DISTILLERS

PAIR = "resnet32x4-resnet8x4"
ROWS = 64
EPOCHS = (0.0, 1.5, 25.0)  # of a fading weight, in a warm-up, after it


def norm_of(value: Tensor, parameters: list[Tensor]) -> float:
    """L2 norm of d value / d parameters."""
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    present = [g.square().sum() for g in found if g is not None]
    return float(torch.stack(present).sum().sqrt()) if present else 0.0


class LargeBench(Bench):
    """With a batch and a set of ROWS."""

    def __init__(self, method: str, variant: str, pair: str) -> None:
        super().__init__(lab.config_of(method, pair, f"variant={variant}", f"data.batch_size={ROWS}"))

    def shares(self, progress: float) -> dict[str, float]:
        """By term, the norm of its gradient over the cross-entropy's at weight 1, by the student's parameters."""
        self.step.train()
        captured: dict[str, Tensor] = {}
        logits: list[Tensor] = []

        def capture(_: Distiller, given: tuple[object, ...], terms: dict[str, Tensor]) -> None:
            captured.update(terms)
            logits.append(given[0].logits_BK)  # type: ignore[attr-defined]

        hook = self.method.register_forward_hook(capture)
        batch = self.batch(last=ROWS)
        self.run(batch, progress)
        if self.method.first_stage is not None:
            captured.update(self._first_stage(batch))
        hook.remove()
        own = [p for p in self.student.parameters() if p.requires_grad]
        task = norm_of(F.cross_entropy(logits[0], batch.label_B), own)
        return {name: norm_of(term, own) / task for name, term in captured.items() if term.requires_grad}

    def _first_stage(self, batch: Batch) -> dict[str, Tensor]:
        for module in self.method.first_stage_modules():
            module.requires_grad_(True)
        student = self.student(batch.image_BCHW, features=True)
        terms = self.method.first_stage_terms(student, self.look(batch), batch)
        return {f"first stage: {name}": term for name, term in terms.items()}


def shares_of(method: str, variant: str = "default", pair: str = PAIR) -> dict[str, float]:
    """The largest share of each term over the epochs. Raises InputError where the method refuses the pair."""
    previous, lab.ROWS = lab.ROWS, ROWS
    samples, lab.SAMPLES = lab.SAMPLES, ROWS
    try:
        found = [LargeBench(method, variant, pair).shares(epoch) for epoch in EPOCHS]
    finally:
        lab.ROWS, lab.SAMPLES = previous, samples
    return {name: max(one.get(name, 0.0) for one in found) for name in found[-1]}


def main(words: list[str]) -> None:
    """The table."""
    for word in words or [f"{m}:{v}" for m in METHODS for v in DISTILLERS.get(m).variants]:
        method, _, variant = word.partition(":")
        try:
            found = shares_of(method, variant or "default")
            print(word, " ".join(f"{name} {share:.2e}" for name, share in found.items()), flush=True)
        except InputError as error:
            print(word, error, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
