"""Both loaders against an obvious loop, bit for bit."""

import gc
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import MEAN, STD, array_set, augmented, configured, file_set, normalised, obvious_pixels

from pipeline import views
from pipeline.contracts import InputError
from pipeline.loaders import LOADERS
from pipeline.loaders.pixels import Normalise
from pipeline.loaders.torch_workers import HostBatches, Task

BOTH = pytest.mark.parametrize("name", ["resident", "torch"])


def epoch_of(loader, epoch=0):
    loader.set_epoch(epoch)
    return list(loader)


@BOTH
@pytest.mark.parametrize(
    "changes",
    [{}, {"rotation": 0.0}, {"flip": False, "rotation": 0.0}, {"padding": 0}, {"channels_last": False}, {"views": 1}],
    ids=str,
)
def test_two_epochs_are_the_obvious_loops_pixels(name, changes):
    image_set, how = array_set(), augmented(**changes)
    loader = LOADERS.get(name)(image_set, how)
    assert loader.replayable and loader.num_samples == 70 and len(loader) == 5
    for epoch in (0, 1):
        view = epoch if how.views is None else 0
        order = views.order(how.seed, epoch, 70)
        batches = epoch_of(loader, epoch)
        assert [len(b.label_B) for b in batches] == [16, 16, 16, 16, 6]
        for step, batch in enumerate(batches):
            index = order[step * 16 : (step + 1) * 16]
            assert batch.index_B.tolist() == index.tolist() and batch.index_B.dtype == torch.int64
            assert batch.label_B.tolist() == image_set.label_N[index].tolist() and batch.label_B.dtype == torch.int64
            assert (batch.info.view, batch.info.share) == (view, 1.0)
            expected = np.stack([normalised(obvious_pixels(image_set, how, view, i)) for i in index.tolist()])
            assert batch.image_BCHW.dtype == torch.float32
            assert np.array_equal(batch.image_BCHW.numpy(), expected)
            memory = torch.channels_last if how.channels_last else torch.contiguous_format
            assert batch.image_BCHW.is_contiguous(memory_format=memory)


@BOTH
def test_evaluation_shows_the_pixels_as_they_are(name):
    image_set = array_set()
    loader = LOADERS.get(name)(image_set, augmented(train=False))
    batches = epoch_of(loader, 5)
    assert torch.cat([b.index_B for b in batches]).tolist() == list(range(70))
    assert {(b.info.view, b.info.share) for b in batches} == {(0, 1.0)}
    expected = np.stack([normalised(pixels) for pixels in image_set.pixels_NHWC])
    assert np.array_equal(torch.cat([b.image_BCHW for b in batches]).numpy(), expected)


@BOTH
@pytest.mark.parametrize("crop, shorter", [("none", 16), ("window", 18)])
def test_evaluation_of_files_resizes_and_takes_the_centre(name, crop, shorter):
    files = file_set()
    loader = LOADERS.get(name)(files, configured(train=False, crop=crop, workers=0))
    found = torch.cat([b.image_BCHW for b in loader]).numpy()
    for i, pixels in enumerate(files.images):
        height, width = pixels.shape[:2]
        short = min(height, width)
        height, width = int(shorter * height / short), int(shorter * width / short)
        small = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        top, left = round((height - 16) / 2), round((width - 16) / 2)
        assert np.array_equal(found[i], normalised(small[top : top + 16, left : left + 16]))


def test_padded_crops_of_files_are_the_same_in_both():
    files = file_set()
    pairs = zip(*(epoch_of(LOADERS.get(name)(files, augmented()), 2) for name in ("resident", "torch")), strict=True)
    assert all(torch.equal(a.image_BCHW, b.image_BCHW) and torch.equal(a.index_B, b.index_B) for a, b in pairs)


@BOTH
def test_windows_are_cut_before_they_are_resized(name):
    files, how = file_set(), configured(crop="window", flip=True)
    for batch in epoch_of(LOADERS.get(name)(files, how), 1):
        for image, index in zip(batch.image_BCHW.numpy(), batch.index_B.tolist(), strict=True):
            pixels, one = files.images[index], np.array([index])
            size = np.array([pixels.shape[0]]), np.array([pixels.shape[1]])
            top, left, h, w = views.resized_crop_windows(8, 1, one, *size)[0].tolist()
            cut = Image.fromarray(pixels).crop((left, top, left + w, top + h))
            small = np.asarray(cut.resize((16, 16), Image.Resampling.BILINEAR))
            if views.flips(8, 1, one)[0]:
                small = small[:, ::-1]
            assert np.array_equal(image, normalised(small))


def test_normalisation_is_exact_for_every_value():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    for channels_last in (True, False):
        image = Normalise(MEAN, STD, channels_last, "cpu")(torch.from_numpy(pixels))
        assert np.array_equal(image[0].numpy(), normalised(pixels[0]))


def test_a_workers_task_can_be_pickled():
    work = HostBatches(array_set(), augmented())
    copy = pickle.loads(pickle.dumps(work))
    task = Task(4, np.array([3, 60, 9]))
    assert torch.equal(work[task].pixels_BHWC, copy[task].pixels_BHWC)


def message_of_the_error(name, workers):
    # Not pytest.raises: it keeps the traceback; a DataLoader freed by the cycle collector waits 5 s for each worker.
    try:
        list(LOADERS.get(name)(file_set(broken=5), configured(workers=workers)))
    except InputError as error:
        return str(error)
    return None


@BOTH
@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_one_line(name, workers):
    gc.disable()
    try:
        assert message_of_the_error(name, workers) == "5.jpg: not an image"
        assert multiprocessing.active_children() == []  # the error holds no worker back
    finally:
        gc.enable()
