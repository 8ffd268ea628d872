"""DOT against plain loops, plain SGD, and its skipped steps."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from pipeline.engine.optimizers.dot import DOT

SHAPES = ((3, 2), (4,), (2, 2))


def start() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64) for shape in SHAPES]


def gradients(step: int) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Both kinds for the first parameter, one kind for each of the others."""
    generator = torch.Generator().manual_seed(step)
    task, distill = ([torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES] for _ in range(2))
    return [task[0], task[1], None], [distill[0], None, distill[2]]


def test_the_loop() -> None:
    parameters, lr, momentum, delta, decay = start(), 0.1, 0.9, 0.05, 0.01
    optimizer = DOT(parameters, lr, momentum=momentum, delta=delta, weight_decay=decay)
    wanted = [p.clone() for p in parameters]
    speeds: dict[str, Tensor] = {}
    for step in range(4):
        (a, b, _), (c, _, d) = gradients(step)
        assert a is not None and b is not None and c is not None and d is not None
        pulls = {
            "task0": (0, a + decay * wanted[0], momentum - delta),
            "kd0": (0, c, momentum + delta),
            "task1": (1, b + decay * wanted[1], momentum),
            "kd2": (2, d + (decay * wanted[2] if step else 0), momentum),
        }
        for name, (i, pull, beta) in pulls.items():
            speeds[name] = beta * speeds[name] + pull if name in speeds else pull
            wanted[i] = wanted[i] - lr * speeds[name]
        optimizer.give(*gradients(step))
        optimizer.step()
    for found, expected in zip(parameters, wanted, strict=True):
        assert torch.allclose(found, expected, rtol=1e-12)


def test_without_delta_it_is_sgd_on_the_sum() -> None:
    ours, theirs = start()[:1], start()[:1]
    optimizer = DOT(ours, 0.1, momentum=0.9, delta=0.0, weight_decay=0.01)
    plain = torch.optim.SGD(theirs, 0.1, momentum=0.9, weight_decay=0.01)
    for step in range(5):
        task, distill = gradients(step)
        optimizer.give(task[:1], distill[:1])
        theirs[0].grad = task[0] + distill[0]  # type: ignore[operator]
        optimizer.step()
        plain.step()
    assert torch.allclose(ours[0], theirs[0], rtol=1e-12)


@pytest.mark.parametrize("bad_step", [0, 2])
def test_a_bad_step_changes_nothing(bad_step: int) -> None:
    """Skipped on the device: as if the step had not been, in the first step too."""
    with_bad, without = start(), start()
    one, two = (DOT(p, 0.1, weight_decay=0.01) for p in (with_bad, without))
    for step in range(4):
        if step == bad_step:
            one.found_inf = torch.ones(())
            one.give(*([None if g is None else g * float("nan") for g in kind] for kind in gradients(9)))
            one.step()
            one.found_inf = torch.zeros(())
        for optimizer in (one, two):
            optimizer.give(*gradients(step))
            optimizer.step()
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(with_bad, without, strict=True))


def test_resume_goes_on_the_same() -> None:
    parameters = start()
    optimizer = DOT(parameters, 0.1, weight_decay=0.01)
    optimizer.give(*gradients(0))
    optimizer.step()
    copies = [p.clone() for p in parameters]
    resumed = DOT(copies, 0.5)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    for one in (optimizer, resumed):
        one.give(*gradients(1))
        one.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, copies, strict=True))


def test_gradients_must_be_as_many_as_parameters() -> None:
    with pytest.raises(ValueError, match="zip"):
        DOT(start(), 0.1).give([None], [None])
