"""What compiled losses read and write: bytes of all generated kernels, against the least that is possible.

Least: both B x K matrices read once, the gradient written once. Counted by inductor for each kernel, a buffer once a
kernel; nothing is run or timed, and no C++ is compiled.
"""

from typing import Any

import pytest
import torch
import torch._inductor.config as inductor
from torch import Tensor
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.graph import GraphLowering

from pipeline.contracts import Batch, Distiller, ModelOutput
from pipeline.distillers import DISTILLERS
from pipeline.distillers.kd import kd_loss

B, K = 1024, 1000
LEAST = 3 * B * K * 4

# Measured with torch 2.13, in matrices (the least is 3): kd, lskd 6.0 (forward: the teacher's once, the student's again
# for the cross-entropy; backward: both and the gradient), dkd 7.0 (one of its products is kept), dist 10.0 (columns
# after rows: the probabilities are written and read again). Before the formulas were fitted: 8.0, 10.0, 11.6, 18.1.
BOUND = {"kd": 2.1, "lskd": 2.1, "dkd": 2.4, "dist": 3.4}


def loss_of(method: Distiller, student_BK: Tensor, teacher_BK: Tensor, label_B: Tensor) -> Tensor:
    """The sum of the terms, of logits alone."""
    student, teacher = (ModelOutput(x, x[:, :1]) for x in (student_BK, teacher_BK))
    batch = Batch(image_BCHW=student_BK[:, :1], label_B=label_B, index_B=label_B)
    terms = method(student, teacher, batch, torch.zeros(()))
    return torch.stack([term.reshape(()) for term in terms.values()]).sum()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each graph that is compiled from now on; its kernels do nothing."""
    found: list[int] = []
    generate = GraphLowering.codegen

    def codegen(self: GraphLowering) -> Any:
        code = generate(self)
        found.append(self.count_bytes()[0])
        return code

    monkeypatch.setattr(GraphLowering, "codegen", codegen)
    monkeypatch.setattr(AsyncCompile, "cpp_pybinding", lambda *args, **keys: lambda *buffers: None)
    return found


@pytest.mark.parametrize("name", BOUND)
def test_forward_and_backward(name: str, counted: list[int]) -> None:
    method = DISTILLERS.get(name)(DISTILLERS.get(name).Config())
    torch._dynamo.reset()
    with inductor.patch(force_disable_caches=True, cpu_backend="cpp"):
        compiled = torch.compile(loss_of, fullgraph=True, dynamic=False)
        student_BK = torch.zeros(B, K, requires_grad=True)
        compiled(method, student_BK, torch.zeros(B, K), torch.zeros(B, dtype=torch.int64)).backward()
    torch._dynamo.reset()
    assert len(counted) == 2
    assert 1 < sum(counted) / LEAST <= BOUND[name], sum(counted) / LEAST


def test_row_sums_are_kl_div() -> None:
    """kd's loss is torch's own; large offsets change nothing."""
    g = torch.Generator().manual_seed(0)
    student_BK, teacher_BK = (torch.randn(5, 9, generator=g) * 9 for _ in range(2))
    logs = (torch.log_softmax(x / 3, dim=1) for x in (student_BK, teacher_BK))
    wanted = torch.nn.functional.kl_div(*logs, reduction="batchmean", log_target=True) * 9
    torch.testing.assert_close(kd_loss(student_BK, teacher_BK, 3), wanted)
    torch.testing.assert_close(kd_loss(student_BK + 512, teacher_BK, 3), wanted, rtol=1e-4, atol=1e-5)
