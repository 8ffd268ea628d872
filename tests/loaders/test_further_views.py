"""Further views against an obvious loop, and the same bits whatever the ranks, loader, workers and restarts."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from small_sets import array_set, augmented, configured, file_set, normalised, obvious_pixels

from pipeline import views
from pipeline.contracts import Batch, InputError, Stream
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders import LOADERS
from pipeline.loaders.augment_ops import operated
from pipeline.loaders.config import LoaderConfig

BOTH = pytest.mark.parametrize("name", ["resident", "torch"])
MIXED = {
    "mixed": Stream(kind="mixup", alpha=0.2),
    "pasted": Stream(kind="cutmix", alpha=1.0),
    "cut": Stream(kind="cutout", size=6),
}
OPERATED = {kind: Stream(kind=kind) for kind in views.OP_KINDS}
# Mixed and operated streams in turn: each must find its own pixels.
ALL = {"strong": OPERATED["strong"], **MIXED, "auto": OPERATED["autoaugment"], "rand": OPERATED["randaugment"]}
STREAMS = pytest.mark.parametrize("streams", [MIXED, OPERATED, ALL, {"cut": MIXED["cut"]}], ids=["m", "o", "all", "c"])


def epoch_of(name: str, image_set: ImageSet, how: LoaderConfig, epoch: int = 0, step: int = 0) -> list[Batch]:
    loader = LOADERS.get(name)(image_set, how)
    loader.set_epoch(epoch, step)
    return list(loader)


def tensors(batch: Batch) -> Iterator[torch.Tensor]:
    yield from (batch.image_BCHW, batch.label_B, batch.index_B)
    for name, image_BCHW in batch.streams.items():
        yield image_BCHW
        yield from batch.mixes.get(name, ())


def same(a: list[Batch], b: list[Batch]) -> bool:
    return all(
        list(x.streams) == list(y.streams)
        and list(x.mixes) == list(y.mixes)
        and all(torch.equal(s, t) for s, t in zip(tensors(x), tensors(y), strict=True))
        for x, y in zip(a, b, strict=True)
    )


def own_and_partner(
    image_set: ImageSet, how: LoaderConfig, view: int, step: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Normalised ordinary views of a global batch and of its partners, by loops."""
    index = views.order(how.data.seed, view, len(image_set))[step * 16 : (step + 1) * 16].tolist()
    partner = [index[p] for p in views.partners(how.data.seed, view, step, len(index))]
    assert sorted(partner) == sorted(index)
    both = ([normalised(obvious_pixels(image_set, how, view, i)) for i in rows] for rows in (index, partner))
    return next(both), next(both)


@BOTH
@pytest.mark.parametrize("n", [70, 33])
def test_mixed_views_are_the_obvious_loops(name: str, n: int) -> None:
    image_set, how = array_set(n), augmented(streams=MIXED)
    for epoch in (0, 3):
        for step, batch in enumerate(epoch_of(name, image_set, how, epoch)):
            own, partner = own_and_partner(image_set, how, epoch, step)
            at = np.array([step])
            label = views.order(8, epoch, n)[step * 16 : (step + 1) * 16]
            label = image_set.label_N[label][views.partners(8, epoch, step, len(own))].tolist()
            assert np.array_equal(batch.image_BCHW.numpy(), own)
            assert list(batch.streams) == list(batch.mixes) == list(MIXED)

            weight = np.float32(views.mix_lambdas(8, epoch, at, 0.2)[0])
            expected = weight * np.stack(own) + (np.float32(1) - weight) * np.stack(partner)
            assert np.array_equal(batch.streams["mixed"].numpy(), expected)
            assert batch.mixes["mixed"].weight.item() == weight and batch.mixes["mixed"].box.shape == (0,)

            boxes = views.mix_boxes(8, epoch, at, views.mix_lambdas(8, epoch, at, 1.0), 16, 16)
            for key, box, other in (
                ("pasted", boxes[0], np.stack(partner)),
                ("cut", views.cutout_boxes(8, epoch, at, 16, 16, 6)[0], np.zeros_like(own)),
            ):
                expected, (top, left, tall, wide) = np.stack(own), box.tolist()
                expected[:, :, top : top + tall, left : left + wide] = other[:, :, top : top + tall, left : left + wide]
                mix = batch.mixes[key]
                assert np.array_equal(batch.streams[key].numpy(), expected)
                assert mix.box.dtype == torch.int64 and mix.box.tolist() == box.tolist()
                assert mix.weight.shape == () and mix.weight.dtype == torch.float32
                assert mix.weight.item() == 1 - tall * wide / 256
            assert batch.mixes["mixed"].partner_label_B.tolist() == label
            assert batch.mixes["pasted"].partner_label_B.tolist() == label
            assert batch.mixes["cut"].partner_label_B.tolist() == batch.label_B.tolist()


@BOTH
def test_operated_views_are_made_of_the_finished_pixels(name: str) -> None:
    image_set, how = array_set(), augmented(streams=OPERATED)
    for batch in epoch_of(name, image_set, how, 2):
        index = batch.index_B.numpy()
        pixels = np.stack([obvious_pixels(image_set, how, 2, i) for i in index.tolist()])
        assert not batch.mixes
        assert np.array_equal(batch.image_BCHW.numpy(), [normalised(p) for p in pixels])
        for kind, image_BCHW in batch.streams.items():
            made = operated(pixels, index, 2, kind, how)
            assert np.array_equal(image_BCHW.numpy(), [normalised(p) for p in made])


@BOTH
@STREAMS
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_divide_the_views_of_one_rank(name: str, streams: dict[str, Stream], ranks: int) -> None:
    image_set = array_set()
    whole = epoch_of(name, image_set, augmented(streams=streams), 1)
    parts = [epoch_of(name, image_set, augmented(streams=streams, rank=r, ranks=ranks), 1) for r in range(ranks)]
    for batch, *pieces in zip(whole, *parts, strict=True):
        assert torch.equal(batch.image_BCHW, torch.cat([p.image_BCHW for p in pieces]))
        assert torch.equal(batch.index_B, torch.cat([p.index_B for p in pieces]))
        for key in streams:
            assert torch.equal(batch.streams[key], torch.cat([p.streams[key] for p in pieces]))
        for key, mix in batch.mixes.items():
            assert torch.equal(mix.partner_label_B, torch.cat([p.mixes[key].partner_label_B for p in pieces]))
            assert all(torch.equal(mix.weight, p.mixes[key].weight) for p in pieces)
            assert all(torch.equal(mix.box, p.mixes[key].box) for p in pieces)


@STREAMS
def test_loaders_workers_and_threads_give_the_same_bits(streams: dict[str, Stream]) -> None:
    image_set = array_set()
    for changes in ({}, {"rank": 1, "ranks": 3}):
        first = epoch_of("resident", image_set, augmented(streams=streams, **changes))
        assert len(first) == 5
        for name, workers in (("resident", 3), ("torch", 0), ("torch", 2)):
            assert same(first, epoch_of(name, image_set, augmented(streams=streams, workers=workers, **changes)))


@BOTH
@STREAMS
def test_a_restart_goes_on_with_the_unbroken_sequence(name: str, streams: dict[str, Stream]) -> None:
    image_set, how = array_set(), augmented(streams=streams)
    unbroken = epoch_of(name, image_set, how, 1)
    for step in (1, 4, 5):
        assert same(unbroken[step:], epoch_of(name, image_set, how, 1, step))
    loader = LOADERS.get(name)(image_set, how)
    loader.set_epoch(1)
    taken = next(iter(loader))
    assert same([taken], unbroken[:1]) and loader.state_dict() == {"epoch": 1, "step": 1}
    assert same(unbroken[1:], list(loader)) and loader.state_dict() == {"epoch": 2, "step": 0}


@BOTH
def test_a_batch_of_one_row_is_its_own_partner(name: str) -> None:
    *_, last = epoch_of(name, array_set(17), augmented(streams=ALL))
    assert len(last.label_B) == 1 and all(x.shape == (1, 3, 16, 16) for x in last.streams.values())
    assert torch.equal(last.streams["pasted"], last.image_BCHW)
    assert torch.allclose(last.streams["mixed"], last.image_BCHW, rtol=1e-5, atol=1e-6)
    assert all(mix.partner_label_B.tolist() == last.label_B.tolist() for mix in last.mixes.values())


@BOTH
def test_the_order_is_that_of_the_view_only_where_something_is_drawn_by_batch(name: str) -> None:
    image_set = array_set()

    def index(epoch: int, **changes: object) -> list[int]:
        return torch.cat([b.index_B for b in epoch_of(name, image_set, augmented(**changes), epoch)]).tolist()

    assert index(1, streams=OPERATED) == index(1) == views.order(3, 1, 70).tolist()
    for streams in (MIXED, {"cut": MIXED["cut"]}, ALL):
        assert index(1, streams=streams) == views.order(8, 1, 70).tolist()
    # Two runs of other seeds share what a cache holds: views repeat with all that is mixed into them.
    how = [augmented(streams=ALL, views=2, seed=seed) for seed in (3, 4)]
    assert same(epoch_of(name, image_set, how[0], 1), epoch_of(name, image_set, how[1], 3))


@BOTH
def test_evaluation_has_no_further_views(name: str) -> None:
    image_set = array_set()
    batches = epoch_of(name, image_set, augmented(train=False, streams=ALL))
    assert all(not batch.streams and not batch.mixes for batch in batches)
    assert torch.cat([batch.index_B for batch in batches]).tolist() == list(range(70))


@BOTH
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("channels_last", [True, False])
def test_further_views_lie_in_memory_as_the_ordinary_one(name: str, ranks: int, channels_last: bool) -> None:
    how = augmented(streams=ALL, channels_last=channels_last, ranks=ranks)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    for batch in epoch_of(name, array_set(), how):
        for image_BCHW in (batch.image_BCHW, *batch.streams.values()):
            assert image_BCHW.is_contiguous(memory_format=memory) and image_BCHW.dtype == torch.float32


def test_subsets_of_files_are_the_same_in_both() -> None:
    held = np.arange(1, 23, 2)
    for changes in ({"index_N": held}, {"resize": 20}, {"index_N": held, "crop": "none", "rank": 1, "ranks": 2}):
        how = augmented(streams=ALL, batch_size=4, **changes)
        assert same(epoch_of("resident", file_set(), how, 2), epoch_of("torch", file_set(), how, 2))


def test_windows_are_mixed_and_operated_too() -> None:
    whole = epoch_of("torch", file_set(), configured(crop="window", flip=True, streams=ALL), 1)
    plain = {}
    for batch in epoch_of("torch", file_set(), configured(crop="window", flip=True), 1):
        plain.update(zip(batch.index_B.tolist(), batch.image_BCHW, strict=True))
    for step, batch in enumerate(whole):
        index = batch.index_B.tolist()
        partner = [index[p] for p in views.partners(8, 1, step, len(index)).tolist()]
        weight = batch.mixes["mixed"].weight
        assert torch.equal(batch.image_BCHW, torch.stack([plain[i] for i in index]))
        expected = weight * batch.image_BCHW + (1 - weight) * torch.stack([plain[i] for i in partner])
        assert torch.equal(batch.streams["mixed"], expected)


@BOTH
def test_an_abandoned_epoch_leaves_nothing_behind(name: str) -> None:
    image_set, how = array_set(), augmented(streams=ALL, workers=2)
    loader = LOADERS.get(name)(image_set, how)
    for _ in loader:
        break
    loader.set_epoch(4)
    assert same(list(loader), epoch_of(name, image_set, how, 4))


@pytest.mark.parametrize(
    "streams, message",
    [
        ({"a": Stream(kind="blur")}, "stream a: kind='blur' is none of mixup, cutmix, cutout, autoaugment"),
        ({"a": Stream(kind="mixup", alpha=0.0)}, "stream a: alpha=0.0 is not positive"),
        ({"a": Stream(kind="cutout")}, "stream a: a square of 0 pixels"),
        ({"a": Stream(kind="strong"), "b": Stream(kind="strong")}, "two of the streams a, b are the same"),
    ],
    ids=str,
)
def test_an_impossible_stream_is_refused(streams: dict[str, Stream], message: str) -> None:
    with pytest.raises(InputError, match=message):
        configured(streams=streams)
