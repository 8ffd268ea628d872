"""Batches of the resident loader whose pixels are left to the step."""

from dataclasses import replace

import pytest
import torch
from loader_configs import loader_config
from mini_sets import colour_set
from torch._inductor import metrics

from pipeline.engine.distributed.parallel import compile_pixels
from pipeline.loaders import LOADERS

CONFIG = loader_config(
    batch_size=9, image_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), seed=3, data_seed=4,
    rank=0, ranks=1, crop="pad", padding=2, flip=True,
)  # fmt: skip
CONFIGS = {
    "padded": CONFIG,
    "as they are": CONFIG.with_data(crop="none", flip=False),
    "plain memory": replace(CONFIG, channels_last=False),
    "a rank of two": replace(CONFIG, rank=1, ranks=2),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_drafts_become_the_same_pixels(name: str) -> None:
    done, undone = (LOADERS.get("resident")(colour_set(23), CONFIGS[name]) for _ in range(2))
    undone.drafts = True
    for epoch in range(2):
        for loader in (done, undone):
            loader.set_epoch(epoch)
        for whole, draft in zip(done, undone, strict=True):
            assert draft.image_BCHW.numel() == 0 and draft.info.make is not None and draft.draft
            made = draft.finished()
            assert torch.equal(made.image_BCHW, whole.image_BCHW) and made.info.make is None
            assert made.image_BCHW.stride() == whole.image_BCHW.stride()
            assert torch.equal(made.label_B, whole.label_B) and torch.equal(made.index_B, whole.index_B)


def test_rotated_and_evaluated_images_come_finished() -> None:
    for how in (CONFIG.with_data(rotation=15.0), replace(CONFIG, train=False)):
        loader = LOADERS.get("resident")(colour_set(23), how)
        loader.drafts = True
        assert all(batch.info.make is None and batch.image_BCHW.numel() for batch in loader)


@pytest.mark.slow
def test_gather_window_mirror_and_normalise_are_one_kernel() -> None:
    """Compiled by inductor, with the bits of the plain pixels."""
    loader = LOADERS.get("resident")(colour_set(23), CONFIG)
    loader.drafts = True
    batch = next(iter(loader))
    torch._dynamo.reset()
    metrics.reset()
    with torch.no_grad():
        found = batch.finished(compile_pixels)
    assert metrics.generated_kernel_count == 1
    assert torch.equal(found.image_BCHW, batch.finished().image_BCHW)


def test_the_next_epoch_is_laid_out_while_this_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Order and crops: half a tenth of a second at 50,000 images, in which nothing would run between epochs."""
    ahead, alone = (LOADERS.get("resident")(colour_set(23), CONFIG) for _ in range(2))
    batches = iter(ahead)
    next(batches)
    ready = ahead._ahead[1].result().todo
    assert (ready.epoch, ready.first) == (1, 0) and (1, 0) in ahead._crops
    list(batches)
    monkeypatch.setattr(ahead, "_corners", None)  # nothing is left to compute
    alone.set_epoch(1)
    for a, b in zip(ahead, alone, strict=True):
        assert torch.equal(a.image_BCHW, b.image_BCHW) and torch.equal(a.index_B, b.index_B)
        monkeypatch.undo()  # but for the epoch after it
    assert set(ahead._crops) <= {(2, 0)}
