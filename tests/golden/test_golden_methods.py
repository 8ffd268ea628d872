"""Every golden case of a folder (default: those beside this file; `--golden DIR`: those of DIR only)."""

import numpy as np
import pytest
import torch
from golden_adapters import ADAPTERS, Outputs
from golden_cases import Case

# mdistiller always computes KDSVD in float32: no float64 numbers stand behind these, so they are held more tightly.
F32_BOUNDS = {"kdsvd": (1e-5, 0.0)}


def check(found: np.ndarray, wanted: np.ndarray, key: str, relative: float, floor: float) -> None:
    """|found - wanted| <= relative * max|wanted| + floor, for every entry."""
    assert found.shape == wanted.shape, f"{key}: shape {found.shape}, expected {wanted.shape}"
    worst = np.abs(found - wanted).max(initial=0.0)
    bound = relative * np.abs(wanted).max(initial=0.0) + floor
    assert worst <= bound, f"{key}: differs by {worst:.3g}, allowed {bound:.3g}"


def named_gradients(outputs: Outputs, inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Gradients of outputs["backward"]: of the inputs by grad/NAME, of own parameters by both manifests' names."""
    loss, own = outputs.pop("backward", None), outputs.pop("parameters", {})
    if loss is None:
        return {}
    leaves = {f"grad/{name}": leaf for name, leaf in inputs.items() if leaf.requires_grad}
    leaves |= {f"pgrad/{name}": leaf for name, leaf in own.items() if leaf.requires_grad}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    named = {name: g.numpy() for name, g in zip(leaves, found, strict=True) if g is not None}
    return named | {f"grad/param:{name[6:]}": g for name, g in named.items() if name.startswith("pgrad/")}


def digest(case: Case, key: str, values: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> np.ndarray | None:
    """What `key` asks for: an array, or one of the digests that the manifests keep of large ones."""
    if key in values:
        return values[key]
    name, _, kind = key.partition("#")
    for mark in ("gradsample/", "gradstat/"):
        if mark in key:
            name, kind = key.replace(mark, "grad/"), mark
    if name not in values:
        return None
    flat = values[name].reshape(-1)
    if kind == "samp":
        return flat[:: int(wanted[f"{name}#stat"][5])]
    if kind == "gradsample/":
        return flat[:: case.strides[name.partition("grad/")[2]]]
    if kind == "gradstat/":
        return np.array([flat.sum(), np.linalg.norm(flat), np.abs(flat).max()])
    step = wanted[key][5]
    return np.array([flat.sum(), np.abs(flat).sum(), np.linalg.norm(flat), flat.min(), flat.max(), step])


def compare(case: Case, precision: str, relative: float, floor: float, *, gradients: bool) -> int:
    """Number of arrays compared. Gradients are measured against the largest of the case."""
    inputs = case.inputs(precision)
    outputs = ADAPTERS[case.method](case, inputs)
    grads = named_gradients(outputs, inputs) if gradients else {}
    outputs.pop("backward", None), outputs.pop("parameters", None)
    values = {k: v.detach().double().numpy() for k, v in outputs.items()} | grads
    expected = case.expected(precision)
    wanted = {k: v for k, v in expected.items() if gradients or "grad" not in k}
    largest = max((np.abs(v).max(initial=0.0) for k, v in wanted.items() if "grad/" in k), default=0.0)
    for key, raw in wanted.items():
        array = np.asarray(raw, dtype=np.float64)
        found = digest(case, key, values, wanted)
        assert found is not None, f"{case}: nothing computes {key}"
        # Sums over a large gradient lose digits that its largest entry does not know of: bounded by their own size.
        check(found, array, f"{case}/{key}", relative, floor + (relative * largest if "grad/" in key else 0.0))
    return len(wanted)


def test_golden_method(golden_case: Case) -> None:
    assert golden_case.method in ADAPTERS, f"{golden_case}: no method of ours is known by {golden_case.method!r}"
    compared = compare(golden_case, "f64", 1e-8, 1e-12, gradients=True)
    compared += compare(golden_case, "f32", *F32_BOUNDS.get(golden_case.method, (1e-4, 1e-7)), gradients=False)
    assert compared > 0


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_the_obvious_sum(temperature: float) -> None:
    from adapters_kd import kd_loss, naive_kd

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    assert torch.allclose(kd_loss(student, teacher, temperature), naive_kd(student, teacher, temperature), rtol=1e-12)
