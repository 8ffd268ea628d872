"""Windows of JPEG files: Pillow's pixels, a fast mode within its bound, and the same whatever the ranks and workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jpeg_tree import by_pillow, jpeg_set, scene
from small_sets import configured, normalised

from pipeline import views
from pipeline.contracts import Batch, InputError, Stream
from pipeline.datasets.image_set import FileSet
from pipeline.loaders import LOADERS
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.cpu_batches import HostBatches, Task
from pipeline.loaders.resident import packed_set

BOTH = pytest.mark.parametrize("name", ["resident", "torch"])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> FileSet:
    return jpeg_set(tmp_path_factory.mktemp("jpegs"))


def windows(**changes: Any) -> LoaderConfig:
    return configured(**{"crop": "window", "flip": True, "batch_size": 12, "image_size": 32, **changes})


def epoch_of(name: str, images: FileSet, how: LoaderConfig, epoch: int = 0, step: int = 0) -> list[Batch]:
    loader = LOADERS.get(name)(images, how)
    loader.set_epoch(epoch, step)
    return list(loader)


def same(a: Batch, b: Batch) -> bool:
    fields = ("image_BCHW", "label_B", "index_B")
    return a.info.view == b.info.view and all(torch.equal(getattr(a, field), getattr(b, field)) for field in fields)


def joined(parts: list[Batch], field: str) -> torch.Tensor:
    return torch.cat([getattr(part, field) for part in parts])


@BOTH
@pytest.mark.parametrize("changes", [{}, {"scale": (0.02, 0.1)}, {"scale": (0.9, 1.0), "flip": False}], ids=str)
def test_windows_are_pillows_bits(name: str, changes: dict[str, Any], images: FileSet) -> None:
    how = windows(**changes)
    for batch in epoch_of(name, images, how, 2):
        for image, index in zip(batch.image_BCHW.numpy(), batch.index_B.tolist(), strict=True):
            assert np.array_equal(image, normalised(by_pillow(images, how, 2, index, 32)))


def test_global_batches_do_not_depend_on_ranks_workers_and_restarts(images: FileSet) -> None:
    whole = {epoch: epoch_of("torch", images, windows(), epoch) for epoch in (0, 1)}
    assert [len(batch.label_B) for batch in whole[0]] == [12, 12, 12, 5]
    for ranks in (1, 2, 3):
        for workers in (0, 1, 4):
            how = [windows(rank=rank, ranks=ranks, workers=workers) for rank in range(ranks)]
            loaders = [LOADERS.get("torch")(images, one) for one in how]
            found: dict[int, list[list[Batch]]] = {0: [], 1: []}
            for epoch, stop in ((0, 2), (0, None), (1, None)):  # left in the middle of epoch 0, then restored
                state = loaders[0].state_dict()
                assert state == {"epoch": epoch, "step": len(found[epoch])}
                for loader in loaders:
                    loader.load_state_dict(state)
                for step, parts in enumerate(zip(*loaders, strict=True), 1):
                    found[epoch].append(list(parts))
                    if step == stop:
                        break
            for epoch, batches in whole.items():
                for batch, parts in zip(batches, found[epoch], strict=True):
                    for field in ("image_BCHW", "label_B", "index_B"):
                        assert torch.equal(getattr(batch, field), joined(parts, field)), (ranks, workers, epoch)
            del loaders, loader


@pytest.mark.parametrize("workers", [0, 3])
def test_resident_windows_have_the_bits_of_the_torch_loader(workers: int, images: FileSet) -> None:
    streams = {"strong": Stream(kind="strong"), "mixed": Stream(kind="mixup", alpha=0.4)}
    for changes in ({}, {"rotation": 20.0}, {"streams": streams}, {"index_N": np.arange(1, 40, 2)}, {"decode": "fast"}):
        how = windows(workers=workers, **changes)
        resident = LOADERS.get("resident")(images, how)
        exact = LOADERS.get("torch")(images, windows(**{**changes, "decode": "exact"}))
        assert resident.pixels == exact.pixels == "exact"
        for epoch, stop in ((0, 9), (1, 2), (1, 9), (2, 9), (0, 9)):
            resident.set_epoch(epoch)
            exact.set_epoch(epoch)
            for a, b, _ in zip(resident, exact, range(stop), strict=False):
                assert same(a, b) and all(torch.equal(x, b.streams[key]) for key, x in a.streams.items())


@BOTH
def test_growing_images_have_the_size_of_their_epoch(name: str, images: FileSet) -> None:
    streams = {
        "cut": Stream(kind="cutout", size=8),
        "pasted": Stream(kind="cutmix"),
        "auto": Stream(kind="autoaugment"),
    }
    how = windows(image_size=128, min_image_size=64, grow_epochs=(1, 3), streams=streams, workers=1)
    loader = LOADERS.get(name)(images, how)
    for epoch, size in enumerate((64, 96, 128)):
        for batch in loader:
            assert batch.image_BCHW.shape[2:] == (size, size)
            assert all(view_BCHW.shape == batch.image_BCHW.shape for view_BCHW in batch.streams.values())
            index = int(batch.index_B[0])
            expected = normalised(by_pillow(images, how, epoch, index, size))
            assert np.array_equal(batch.image_BCHW[0].numpy(), expected)
        assert {batch.info.view} == {epoch}
    shown = {batch.image_BCHW.shape[2:] for batch in epoch_of(name, images, windows(image_size=128, train=False))}
    assert shown == {(128, 128)}


def fast_difference(images: FileSet, how: LoaderConfig, size: int) -> np.ndarray:
    """|fast - Pillow| of every image, [N, size, size, 3]."""
    index_N = np.arange(len(images))
    fast = HostBatches(images, how).pixels(Task(1, index_N)).numpy().astype(int)
    return np.abs(fast - [by_pillow(images, how, 1, index, size) for index in index_N.tolist()])


def test_fast_windows_differ_by_one_of_255(images: FileSet) -> None:
    difference = fast_difference(images, windows(decode="fast", image_size=64), 64)
    assert difference.max() == 1 and 0 < difference.mean() < 0.1


def test_fast_windows_of_large_images_are_decoded_smaller(tmp_path: Path) -> None:
    images = jpeg_set(tmp_path, n=10, least=400, most=900)
    difference = fast_difference(images, windows(decode="fast", scale=(0.5, 1.0)), 32)
    assert 0.1 < difference.mean() < 1.5 and difference.mean(axis=(1, 2, 3)).max() < 3


def test_the_configuration_names_its_pixels(images: FileSet) -> None:
    names = {decode: LOADERS.get("torch")(images, windows(decode=decode)).pixels for decode in ("exact", "fast")}
    assert names == {"exact": "exact", "fast": "fast"}
    # Fast decoding is of windows: without them both are the same, and so are their caches.
    assert LOADERS.get("torch")(images, windows(decode="fast", crop="none")).pixels == "exact"


def test_resident_refuses_what_does_not_fit(images: FileSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_set, "machine_memory", lambda: 200_000)
    with pytest.raises(InputError, match=r"tree/train: decoded images take about .* GB.*data.loader=torch") as caught:
        LOADERS.get("resident")(images, windows())
    assert "\n" not in str(caught.value)


@BOTH
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_is_named(name: str, workers: int, tmp_path: Path) -> None:
    images = jpeg_set(tmp_path, n=16)
    path = tmp_path / images.paths[9]
    whole = path.read_bytes()
    for bad in (whole[: len(whole) // 2], whole[:-40], b"", b"no image"):
        path.write_bytes(bad)
        with pytest.raises(InputError) as caught:
            epoch_of(name, images, windows(workers=workers, batch_size=4))
        text = str(caught.value)
        assert str(path) in text and "(class 'class1', index 9)" in text and "\n" not in text
        del caught
    path.unlink()
    with pytest.raises(InputError, match=r"index 9.*No such file"):
        epoch_of(name, images, windows(workers=workers, batch_size=4))


def test_four_inks_and_other_formats_are_read(tmp_path: Path) -> None:
    images = jpeg_set(tmp_path, n=6)
    scene(3, 50, 60, "CMYK").save(tmp_path / images.paths[3], "JPEG")
    scene(4, 50, 60).save(tmp_path / images.paths[4], "WEBP", lossless=True)
    for batch in epoch_of("torch", images, windows(), 1):
        for image, index in zip(batch.image_BCHW.numpy(), batch.index_B.tolist(), strict=True):
            assert np.array_equal(image, normalised(by_pillow(images, windows(), 1, index, 32)))
    assert views.order(3, 1, 6).tolist() == batch.index_B.tolist()
