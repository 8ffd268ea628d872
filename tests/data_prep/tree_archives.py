"""Archives in the layouts of the published ones, packed from small trees."""

import io
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

Entry = tuple[str, bytes]


def tar_bytes(entries: Iterable[Entry | tarfile.TarInfo]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            info = tarfile.TarInfo(entry[0])
            info.size = len(entry[1])
            tar.addfile(info, io.BytesIO(entry[1]))
    return buffer.getvalue()


def files_of(folder: Path) -> list[Entry]:
    return [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]


def content(root: Path) -> dict[str, bytes]:
    """Everything below `root`, hidden files too."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def train_tar(tree: Path, path: Path) -> Path:
    """As ILSVRC2012_img_train.tar: an archive of class archives."""
    classes = sorted((tree / "train").iterdir())
    path.write_bytes(tar_bytes((f"{folder.name}.tar", tar_bytes(files_of(folder))) for folder in classes))
    return path


def val_tar(tree: Path, path: Path) -> tuple[Path, list[str]]:
    """As ILSVRC2012_img_val.tar: all images in one folder. Returns also lines `image wnid`."""
    images = sorted((tree / "val").rglob("*.JPEG"), key=lambda image: image.name[::-1])
    names = [f"ILSVRC2012_val_{i + 1:08d}" for i in range(len(images))]
    packed = zip(names, images, strict=True)
    path.write_bytes(tar_bytes((f"{name}.JPEG", image.read_bytes()) for name, image in packed))
    return path, [f"{name} {image.parent.name}" for name, image in zip(names, images, strict=True)]


def zip_of(folder: Path, path: Path) -> Path:
    """A zip of a folder that holds its name."""
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder.parent))
    return path
