"""The dali loader beside the torch loader: the same samples, windows and flips, and nearly or exactly the pixels."""

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from jpeg_tree import jpeg_set
from small_sets import array_set, configured

from pipeline.contracts import InputError, Stream
from pipeline.loaders import LOADERS

ROOT = Path(__file__).resolve().parents[2]
WINDOW = {"crop": "window", "image_size": 32, "flip": True, "workers": 2, "mean": (0, 0, 0), "std": (1, 1, 1)}
PADDED = {**WINDOW, "crop": "pad", "padding": 5}
STREAMS = {
    "strong": Stream(kind="strong"),
    "mixed": Stream(kind="mixup", alpha=0.2),
    "pasted": Stream(kind="cutmix", alpha=1.0),
    "auto": Stream(kind="autoaugment"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return jpeg_set(tmp_path_factory.mktemp("jpegs"))


def make(files, how="pillow", prefetch=2, **changes):
    return LOADERS.get("dali")(files, configured(**{**WINDOW, **changes}), resize=how, prefetch=prefetch)


def by_torch(files, **changes):
    return LOADERS.get("torch")(files, configured(**{**WINDOW, **changes, "workers": 0}))


def tensors(batch):
    mixes = [field for mix in batch.mixes.values() for field in mix]
    return [batch.image_BCHW, batch.label_B, batch.index_B, *batch.streams.values(), *mixes]


def same(a, b):
    mine, theirs = tensors(a), tensors(b)
    return (a.info.view, a.info.share) == (b.info.view, b.info.share) and all(
        torch.equal(x, y) for x, y in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"streams": STREAMS},
        {"min_image_size": 16, "grow_epochs": (1, 3)},
        {**PADDED, "streams": STREAMS},
        {"crop": "none", "resize": 40},
        {"train": False, "resize": 40},
        {"train": False, "crop": "none"},
    ],
    ids=str,
)
def test_pillows_resize_gives_the_torch_loaders_bits(files, changes):
    loader, other = make(files, **changes), by_torch(files, **changes)
    for _ in range(3):  # epochs, one after the other
        assert all(same(a, b) for a, b in zip(loader, other, strict=True))
    assert loader.pixels == other.pixels == "exact"


@pytest.mark.parametrize(
    ("how", "changes", "mean", "worst", "most"),
    [
        # Measured on these images (noisy: photographs give 0.02 and 0.16): mean, worst image, largest difference.
        ("quick", {}, 0.1, 0.4, 1),
        ("quick", {"min_image_size": 16, "grow_epochs": (1, 3)}, 0.1, 0.4, 1),
        ("dali", {}, 0.25, 0.5, 10),
        ("dali", {"min_image_size": 16, "grow_epochs": (1, 3)}, 0.25, 0.5, 10),
        ("dali", PADDED, 0.25, 0.5, 10),
        ("dali", {"crop": "none", "resize": 40}, 0.25, 0.5, 10),
        ("dali", {"train": False, "resize": 40}, 0.25, 0.5, 10),
    ],
)
def test_other_resizes_differ_by_their_rounding_only(files, how, changes, mean, worst, most):
    """In steps of 255. A window off by one pixel is off by 3 and more in the mean."""
    loader, other = make(files, how, **changes), by_torch(files, **changes)
    apart, largest = [], 0.0
    for _ in range(3):
        for a, b in zip(loader, other, strict=True):
            assert (
                torch.equal(a.index_B, b.index_B) and torch.equal(a.label_B, b.label_B) and a.info.view == b.info.view
            )
            difference = 255 * (a.image_BCHW - b.image_BCHW).abs()
            apart += difference.mean((1, 2, 3)).tolist()
            largest = max(largest, difference.max().item())
    print(np.mean(apart), max(apart), largest)
    assert np.mean(apart) < mean and max(apart) < worst and largest < most + 0.01
    assert loader.pixels != other.pixels


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_divide_the_batches_of_one_rank(files, ranks):
    whole = make(files, streams=STREAMS)
    parts = [make(files, streams=STREAMS, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(2):
        for batch, *pieces in zip(whole, *parts, strict=True):
            for field in ("image_BCHW", "label_B", "index_B"):
                assert torch.equal(getattr(batch, field), torch.cat([getattr(p, field) for p in pieces]))
            for name, image_BCHW in batch.streams.items():
                assert torch.equal(image_BCHW, torch.cat([p.streams[name] for p in pieces]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_shows_each_sample_once(files, ranks):
    found = [batch for rank in range(ranks) for batch in make(files, "quick", train=False, rank=rank, ranks=ranks)]
    assert torch.cat([b.index_B for b in found]).tolist() == list(range(len(files)))
    assert torch.cat([b.label_B for b in found]).tolist() == files.label_N.tolist()


def test_threads_abandoned_epochs_and_restarts_change_nothing(files):
    alone = by_torch(files)
    for workers, prefetch in ((0, 1), (1, 2), (4, 3)):  # 3: more batches ahead than an epoch has
        loader = make(files, workers=workers, prefetch=prefetch)
        for taken, _ in enumerate(loader, 1):
            if taken == 2:
                break
        assert loader.state_dict() == {"epoch": 0, "step": 2}
        for epoch, step in ((0, 2), (1, 0), (2, 0), (1, 0), (5, 2), (6, 3)):
            alone.set_epoch(epoch, step)
            loader.set_epoch(epoch, step)
            assert all(same(a, b) for a, b in zip(alone, loader, strict=True))


def test_the_next_epoch_begins_before_this_one_ends(files):
    loader = make(files)
    batches = iter(loader)
    for _ in range(len(loader)):
        next(batches)
    assert next(batches, None) is None
    first = loader._flow.waiting[0]
    alone = by_torch(files)
    alone.set_epoch(1)
    assert all(same(a, b) for a, b in zip(loader, alone, strict=True))
    assert first.done() and not first.cancelled()


def test_two_loaders_take_turns(files):
    train, test = make(files), make(files, train=False)
    apart = list(by_torch(files)), list(by_torch(files, train=False))
    for a, b, c, d in zip(train, test, *apart, strict=True):
        assert same(a, c) and same(b, d)


def test_the_trainers_random_states_stay_as_they_are(files):
    state, numbers = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    list(make(files))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(np.random.get_state()[1], numbers)


def test_the_process_ends_in_the_middle_of_an_epoch(tmp_path):
    code = (
        "import sys; from pathlib import Path; from jpeg_tree import jpeg_set; from test_dali_loader import make\n"
        "loader = make(jpeg_set(Path(sys.argv[1])))\n"
        "batches = iter(loader); next(batches); print(loader.state_dict())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{Path(__file__).parent}"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "{'epoch': 0, 'step': 1}\n"), done.stderr


def test_a_loader_that_is_let_go_takes_its_pipeline_and_threads_along(files):
    loader = make(files)
    next(iter(loader))
    pipeline = weakref.ref(loader._line._decoder._pipe)
    threads = [thread for pool in (loader._owner, loader._readers) for thread in pool._threads]
    del loader
    # The thread that looks ahead may be at work for it still: it is garbage a moment later then.
    for _ in range(600):
        gc.collect()
        left = [thread for thread in threads if thread.is_alive()]
        if not left:
            break
        left[0].join(0.1)
    assert pipeline() is None and not left


def test_what_cannot_be_done_is_refused(files, monkeypatch):
    for changes, options, message in (
        ({"rotation": 9.0}, {}, "cannot rotate"),
        ({}, {"decoder": "mixed"}, "decoder=mixed decodes on a GPU"),
        ({"streams": STREAMS}, {"resize": "dali"}, "made on the host"),
    ):
        with pytest.raises(InputError, match=message):
            LOADERS.get("dali")(files, configured(**{**WINDOW, **changes}), **options)
    with pytest.raises(InputError, match="use resident"):
        make(array_set())
    for name in [name for name in sys.modules if name.startswith("nvidia.dali")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"`make loaders` installs it, and so does the extra \[dali\]"):
        make(files)
