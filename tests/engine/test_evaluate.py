"""Evaluation on images and their mirror images against the plain sum over samples."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput
from pipeline.engine.distributed.parallel import World
from pipeline.engine.evaluate import Evaluation

WORLD = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3 * 4 * 4, 7)

    def forward(self, image_BCHW: Tensor, features: bool = False) -> ModelOutput:
        pooled_BD = image_BCHW.flatten(1)
        return ModelOutput(self.fc(pooled_BD), pooled_BD)


class Batches(list[Batch]):
    num_samples, replayable = 20, True

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(1)
        for rows in (8, 8, 4):
            label_B = torch.randint(7, (rows,), generator=generator)
            image_BCHW = torch.randn(rows, 3, 4, 4, generator=generator)
            yield Batch(image_BCHW=image_BCHW, label_B=label_B, index_B=label_B)


def doubled(output: ModelOutput) -> Tensor:
    """A predictor of its own."""
    return 2 * output.logits_BK


def test_mirror_images_are_averaged_before_the_loss() -> None:
    network = Linear()
    batches = list(Batches())
    label_N = torch.cat([batch.label_B for batch in batches])
    image_NCHW = torch.cat([batch.image_BCHW for batch in batches])
    for flip in (False, True):
        score = Evaluation(network, doubled, Batches(), WORLD, contextlib.nullcontext, flip=flip)()  # type: ignore[arg-type]
        both = [2 * network(x).logits_BK for x in (image_NCHW, image_NCHW.flip(3))]
        wanted_NK = (both[0] + both[1]) / 2 if flip else both[0]
        assert score.samples == 20 and score.correct_top1 == int((wanted_NK.argmax(1) == label_N).sum())
        torch.testing.assert_close(torch.tensor(score.loss), F.cross_entropy(wanted_NK, label_N), rtol=1e-6, atol=1e-6)
