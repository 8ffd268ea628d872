"""Small archives in the layouts of the official ones, made on the fly."""

import hashlib
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.cifar import Layout

Record = dict[Any, Any]


def batch(layout: Layout, rows: int, key: int) -> Record:
    """`rows` random images with random labels."""
    rng = np.random.Generator(np.random.Philox(key))
    data = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
    return {"data": data, layout.label_key: rng.integers(0, layout.classes, rows).tolist(), "batch_label": "a batch"}


def records(layout: Layout, rows: int = 6) -> dict[str, Record]:
    """File name -> record, of all files of an archive."""
    files = [file for split in layout.files.values() for file in split]
    made = {file: batch(layout, rows + i, i) for i, file in enumerate(files)}
    return {**made, layout.meta: {layout.names_key: [f"name{k}" for k in range(layout.classes)]}}


def write(folder: Path, made: dict[str, Record], protocol: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, record in made.items():
        (folder / file).write_bytes(pickle.dumps(record, protocol=protocol))
    return folder


def pack(layout: Layout, scratch: Path, root: Path) -> Layout:
    """root/<archive> of small records, and the layout that knows its checksum."""
    write(scratch / layout.archive.folder, records(layout))
    root.mkdir(parents=True, exist_ok=True)
    path = root / layout.archive.file
    with tarfile.open(path, "w:gz") as tar:
        tar.add(scratch / layout.archive.folder, layout.archive.folder)
    return with_sum(layout, path)


def with_sum(layout: Layout, path: Path, base_url: str = "http://127.0.0.1:9/") -> Layout:
    """The layout whose published archive is `path`."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    return replace(layout, archive=replace(layout.archive, md5=md5, base_url=base_url))
