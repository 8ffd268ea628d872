"""Every method inside the step, under torch.compile: one graph, the numbers of the eager step."""

import pytest
import torch
from methods.lab import METHODS, Bench, config_of

QUICK = ("dkd", "reviewkd", "crd")


def check(method: str) -> None:
    eager, compiled = (Bench(config_of(method, "resnet20-resnet8"), side=16) for _ in range(2))
    torch._dynamo.reset()
    run = torch.compile(compiled.step, fullgraph=True, backend="aot_eager")
    for number in range(2):
        progress = torch.tensor(float(number))
        found = run(progress, *compiled.see(compiled.batch(seed=number)))
        wanted = eager.step(progress, *eager.see(eager.batch(seed=number)))
        torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-4, atol=1e-5)
        found.loss.backward()
        wanted.loss.backward()
    worst = max(float(p.grad.abs().max()) for p in eager.step.parameters() if p.grad is not None)
    for a, b in zip(compiled.step.parameters(), eager.step.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4 * worst)


@pytest.mark.parametrize("method", QUICK)
def test_one_graph(method: str) -> None:
    check(method)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name not in QUICK])
def test_one_graph_of_every_method(method: str) -> None:
    check(method)
