"""Every golden case of a folder (default: those beside this file; `--golden DIR`: those of DIR only)."""

import numpy as np
import pytest
import torch
from golden_adapters import ADAPTERS
from golden_cases import Case


def check(found: np.ndarray, wanted: np.ndarray, key: str, relative: float, floor: float) -> None:
    """|found - wanted| <= relative * max|wanted| + floor, for every entry."""
    assert found.shape == wanted.shape, f"{key}: shape {found.shape}, expected {wanted.shape}"
    worst = np.abs(found - wanted).max(initial=0.0)
    bound = relative * np.abs(wanted).max(initial=0.0) + floor
    assert worst <= bound, f"{key}: differs by {worst:.3g}, allowed {bound:.3g}"


def compare(case: Case, precision: str, relative: float, floor: float, *, gradients: bool) -> int:
    """Number of arrays compared."""
    inputs = case.inputs(precision)
    outputs = ADAPTERS[case.method](case, inputs)
    loss = outputs.pop("backward", None)
    expected = case.expected(precision)
    values = {k: v.detach().double().numpy() for k, v in outputs.items()}
    if loss is not None and gradients:
        leaves = {k: v for k, v in inputs.items() if v.requires_grad}
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        values |= {f"grad/{k}": g.numpy() for k, g in zip(leaves, grads, strict=True) if g is not None}
    wanted = {k: v for k, v in expected.items() if gradients or "grad" not in k}
    unknown = set(wanted) - set(values)
    assert not unknown, f"{case}: nothing computes {sorted(unknown)}"
    for key, array in wanted.items():
        check(values[key], np.asarray(array, dtype=np.float64), f"{case}/{key}", relative, floor)
    return len(wanted)


def test_golden_method(golden_case: Case) -> None:
    assert golden_case.method in ADAPTERS, f"{golden_case}: no method of ours is known by {golden_case.method!r}"
    compared = compare(golden_case, "f64", 1e-8, 1e-12, gradients=True)
    compared += compare(golden_case, "f32", 1e-4, 1e-7, gradients=False)
    assert compared > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_obvious_sum(temperature: float) -> None:
    from golden_adapters import kd_loss, naive_kd

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    assert torch.allclose(kd_loss(student, teacher, temperature), naive_kd(student, teacher, temperature), rtol=1e-12)
