"""The update against torch's plain optimisers and obvious loops."""

import pytest
import torch
from torch import nn

from pipeline.config import OptimConfig
from pipeline.contracts import InputError
from pipeline.engine.optimizers import OPTIMIZERS, build_optimizer, parameter_groups
from pipeline.engine.update import Updater


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()


def updater(model: nn.Module, optim: OptimConfig) -> Updater:
    return Updater(model, model, build_optimizer(model, optim), optim, fp16=False)


def loss_of(model: nn.Module, step: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return model(x).square().mean() * scale


def plain(optim: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    if optim.name == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        lr=optim.lr,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.nesterov,
    )


@pytest.mark.parametrize(
    "optim",
    [OptimConfig(), OptimConfig(nesterov=True), OptimConfig(momentum=0), OptimConfig(name="adamw", lr=1e-3)],
    ids=["sgd", "nesterov", "no momentum", "adamw"],
)
def test_same_as_torch(optim: OptimConfig) -> None:
    ours, theirs = network(), network()
    update, reference = updater(ours, optim), plain(optim, theirs)
    for step in range(5):
        loss = loss_of(ours, step)
        update.backward(loss)
        assert not update.update(loss)
        loss_of(theirs, step).backward()
        reference.step()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("first", [True, False])
def test_non_finite_step_changes_nothing(bad: float, first: bool) -> None:
    model = network()
    update = updater(model, OptimConfig())
    if not first:
        loss = loss_of(model, 0)
        update.backward(loss)
        update.update(loss)
    before = [p.detach().clone() for p in model.parameters()]
    loss = loss_of(model, 1, bad)
    update.backward(loss)
    assert bool(update.update(loss))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    loss = loss_of(model, 2)
    update.backward(loss)
    assert not bool(update.update(loss))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_large_finite_gradients_pass() -> None:
    model = network().float()
    update = updater(model, OptimConfig(lr=1e-30))
    loss = (model[0].weight * 3e38).sum()  # the L2 norm of these gradients overflows float32, none of them does
    update.backward(loss)
    assert not bool(update.update(torch.zeros(())))


def test_clipping() -> None:
    model = network()
    update = updater(model, OptimConfig(lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=0.1))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    loss = loss_of(model, 0, 1000)
    update.backward(loss)
    update.update(loss)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm() == pytest.approx(0.1, rel=1e-4)


def test_no_decay_on_norms_and_biases() -> None:
    groups = parameter_groups(network(), OptimConfig(decay_norm_bias=False))
    assert [g["weight_decay"] for g in groups] == [5e-4, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    assert [len(g["params"]) for g in groups] == [2, 4]


def test_ema_is_the_obvious_average() -> None:
    model = network()
    update = updater(model, OptimConfig(ema_decay=0.9))
    average = [p.detach().clone() for p in model.parameters()]
    for step in range(4):
        loss = loss_of(model, step)
        update.backward(loss)
        update.update(loss)
        average = [0.9 * a + 0.1 * p.detach() for a, p in zip(average, model.parameters(), strict=True)]
    assert update.ema is not None
    for a, b in zip(average, update.ema.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("name", ["apex_lamb", "apex_novograd", "apex_larc"])
def test_apex_missing_is_one_clear_line(name: str) -> None:
    with pytest.raises(InputError, match="NVIDIA apex, built from source") as caught:
        OPTIMIZERS.get(name)([{"params": list(network().parameters())}], OptimConfig(name=name))
    assert "\n" not in str(caught.value)


def test_fp16_scaler_skips_and_recovers() -> None:
    model = network().float()
    optim = OptimConfig(lr=0.01)
    update = Updater(model, model, build_optimizer(model, optim), optim, fp16=True)
    scale = update.scaler.get_scale()
    before = model[0].weight.detach().clone()
    loss = (model[0].weight * 1e38).sum()  # overflows once scaled: the scaler's ordinary business
    update.backward(loss)
    assert not bool(update.update(torch.zeros(())))
    assert torch.equal(model[0].weight, before) and update.scaler.get_scale() == scale / 2
    loss = model[0].weight.square().sum()
    update.backward(loss)
    update.update(loss)
    assert not torch.equal(model[0].weight, before)
