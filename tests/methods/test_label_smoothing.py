"""optim.label_smoothing is in the cross-entropy of every method that has one, and nowhere else."""

import pytest
import torch
import torch.nn.functional as F
from methods.lab import METHODS, Bench, config_of

from pipeline.contracts import Batch, Setting, Shapes
from pipeline.distillers.vanilla import Vanilla

WITHOUT = {"funmatch", "simkd"}  # no labels; a cross-entropy of weight 0


def terms(method: str, smoothing: float) -> dict[str, torch.Tensor]:
    bench = Bench(config_of(method, "resnet20-resnet8"), side=16)
    bench.method.label_smoothing = smoothing
    torch.manual_seed(5)
    return bench.run().terms


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method: str) -> None:
    plain, some, more = (terms(method, smoothing) for smoothing in (0.0, 0.1, 0.2))
    for name in plain.keys() - {"ce"}:
        assert torch.equal(plain[name], some[name])
    if method in WITHOUT:
        assert not plain.get("ce", torch.zeros(())).any()
        return
    # Linear in the share: (1 - s) * CE + s * mean over classes of -log p.
    first, second = some["ce"] - plain["ce"], more["ce"] - plain["ce"]
    assert first != 0
    torch.testing.assert_close(second, 2 * first, rtol=1e-3, atol=1e-6)


def test_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_BK = torch.randn(5, 7, generator=generator, dtype=torch.float64)
    label_B = torch.tensor([0, 3, 6, 2, 2])
    batch = Batch(image_BCHW=torch.zeros(5, 3, 2, 2), label_B=label_B, index_B=label_B)
    target_BK = 0.7 * F.one_hot(label_B, 7) + 0.3 / 7
    wanted = -(target_BK * F.log_softmax(logits_BK, dim=1)).sum(dim=1).mean()
    method = Vanilla(Vanilla.Config())
    assert torch.equal(method.task_loss(logits_BK, batch), F.cross_entropy(logits_BK, label_B))
    method = Vanilla(Vanilla.Config(), Setting(student=Shapes(7, 4, ()), label_smoothing=0.3))
    torch.testing.assert_close(method.task_loss(logits_BK, batch), wanted)
