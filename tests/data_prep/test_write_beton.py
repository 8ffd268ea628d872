"""data_prep/write_beton.py: the same bytes from any number of threads, whole or not at all."""

import json
import resource
from pathlib import Path

import cli
import numpy as np
import pytest
from PIL import Image

from data_prep import write_beton as prep
from pipeline.contracts import InputError, NotWritten
from pipeline.datasets import DATASETS
from pipeline.datasets.image_set import FileSet
from pipeline.loaders.ffcv.file import open_beton
from pipeline.loaders.ffcv.writer import write_beton


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve JPEGs of two classes, the last of them a PNG by another name."""
    root = tmp_path_factory.mktemp("tree")
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = root / "train" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        size = (30 + 5 * i, 40 + 3 * i)
        image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(size)
        image.save(folder / f"{i:02}.jpg", format="PNG" if i == 11 else "JPEG", quality=80)
    return root


@pytest.fixture(scope="module")
def image_set(tree: Path) -> FileSet:
    loaded = DATASETS.get("folder")(root=tree, split="train")
    assert isinstance(loaded, FileSet)
    return loaded


def test_the_command_line(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "train.beton"
    words = ["dataset=folder", f"data.root={tree}", "split=train", f"out={out}", "max_resolution=48", "quality=90"]
    code, said, _ = cli.call(prep, [*words, "raw_fraction=0.3", "workers=2"], capsys)
    assert code == 0 and said.startswith(f"{out}: 12 images of folder/train, ")
    manifest = json.loads((tmp_path / "train.beton.json").read_text())
    kept = {"data_set": "folder", "split": "train", "samples": 12, "max_resolution": 48, "quality": 90}
    assert {**manifest, **kept, "raw_fraction": 0.3, "file_bytes": out.stat().st_size} == manifest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.beton", "train.beton.json"]


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = cli.call(prep, ["--help"], capsys)
    assert code == 0 and all(name in said for name in prep.WriteBetonConfig.model_fields)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["out=x.beton"], "dataset= must be given"),
        (["dataset=folder", "out=x.beton", "raw_fraction=2"], "raw_fraction=2"),
        (["dataset=folder", "out=x.beton", "max_resolution=0"], "max_resolution=0"),
        (["dataset=folder", "out=x.beton", "max_resolutions=4"], "did you mean 'max_resolution'"),
        (["dataset=folder", "data.root={tree}", "out=x.beton", "quality=0"], "quality=0"),
        (["dataset=folder", "data.root={tree}", "out={tree}/none/x.beton"], "No such file or directory"),
    ],
)
def test_bad_keys(words: list[str], text: str, tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = cli.call(prep, [word.format(tree=tree) for word in words], capsys)
    assert code == 2 and text in said


def test_threads_do_not_change_a_byte(image_set: FileSet, tmp_path: Path) -> None:
    for workers in (1, 4):
        seen: list[int] = []
        options = {"max_resolution": 50, "raw_fraction": 0.5, "workers": workers, "progress": seen.append}
        write_beton(image_set, tmp_path / f"{workers}.beton", **options)
        assert seen == list(range(1, 13))
    for name in ("{}.beton", "{}.beton.json"):
        assert (tmp_path / name.format(1)).read_bytes() == (tmp_path / name.format(4)).read_bytes()


def test_bytes_of_small_enough_jpegs_are_kept(image_set: FileSet, tmp_path: Path) -> None:
    path = tmp_path / "kept.beton"
    write_beton(image_set, path, max_resolution=70, quality="keep")
    beton = open_beton(path, image_set, "memory")
    for i in range(12):
        stored = beton.content[beton.pointer_N[i] : beton.pointer_N[i] + beton.size_N[i]].tobytes()
        small = max(image_set.size(i)) <= 70
        png = image_set.paths[i] == "train/b/11.jpg"
        assert (stored == image_set.read_bytes(i)) == (small and not png)
        assert stored.startswith(b"\xff\xd8\xff")
    assert len({max(image_set.size(i)) <= 70 for i in range(12)}) == 2


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_full_disk_leaves_nothing_behind(image_set: FileSet, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limit[1]))
    try:
        with pytest.raises(NotWritten, match=r"cannot write .*full\.beton: File too large"):
            write_beton(image_set, tmp_path / "full.beton", max_resolution=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert leftovers(tmp_path) == []


def test_a_bad_image_is_named_and_an_older_file_stays(image_set: FileSet, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "f.beton"
    write_beton(image_set, path, max_resolution=50)
    older = path.read_bytes()
    broken = FileSet(
        name="folder",
        split="train",
        label_N=image_set.label_N,
        class_names=image_set.class_names,
        root=tree,
        paths=(*image_set.paths[:-1], "train/b/missing.jpg"),
    )
    with pytest.raises(InputError, match=r"missing\.jpg .*index 11"):
        write_beton(broken, path, max_resolution=50)
    assert path.read_bytes() == older and leftovers(tmp_path) == ["f.beton", "f.beton.json"]
    open_beton(path, image_set, "os")


def test_a_manifest_that_cannot_be_written_takes_the_file_with_it(image_set: FileSet, tmp_path: Path) -> None:
    (tmp_path / "f.beton.json").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*f\.beton"):
        write_beton(image_set, tmp_path / "f.beton", max_resolution=50)
    assert leftovers(tmp_path) == ["f.beton.json"]
