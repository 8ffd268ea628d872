"""A CIFAR-100 archive of a few hundred images, in the layout of the official one."""

import pickle
from pathlib import Path

import numpy as np


def write(root: Path, train: int = 200, test: int = 60, classes: int = 100) -> Path:
    """root with cifar-100-python/{train,test,meta}; each class has a colour of its own."""
    rng = np.random.Generator(np.random.Philox(7))
    colour = rng.integers(40, 216, (100, 3))
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        labels = rng.integers(0, classes, count)
        pixels = colour[labels][:, :, None] + rng.integers(-40, 40, (count, 3, 1024))
        record = {"data": pixels.reshape(count, 3072).astype(np.uint8), "fine_labels": labels.tolist()}
        (folder / split).write_bytes(pickle.dumps(record, protocol=4))
    names = {"fine_label_names": [f"class{i:02d}" for i in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names, protocol=4))
    return root
