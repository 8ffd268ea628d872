"""Memory of a loader over ImageNet's number of entries against one over a thousand, all processes together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from jpeg_tree import scene

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 400e6  # bytes

# A few real files under a thousand folders: only the index is as large as ImageNet's.
MEASURE = """
import os, sys
from pathlib import Path
import numpy as np
from pipeline.datasets.image_set import FileSet
from pipeline.datasets.path_table import PathTable
from pipeline.loaders import LOADERS
from loader_configs import loader_config

root, count = Path(sys.argv[1]), int(sys.argv[2])
folders = sorted(os.listdir(root))
names = sorted(os.listdir(root / folders[0]))
each = -(-count // len(folders))
groups = ((folder, [names[i % len(names)] for i in range(each)]) for folder in folders)
images = FileSet(
    name="many", split="train", root=root, paths=PathTable.pack(groups),
    label_N=np.arange(each * len(folders)) // each, class_names=tuple(folders),
)
how = loader_config(batch_size=64, image_size=32, mean=(0.5,) * 3, std=(0.2,) * 3, crop="window", flip=True, workers=2)
loader = LOADERS.get("torch")(images, how)

def proportional():
    here = os.getpid()
    tasks = Path(f"/proc/{here}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    assert len(children) == 2
    lines = [Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[2] for pid in (here, *children)]
    assert all(line.startswith("Pss:") for line in lines)
    return 1024 * sum(int(line.split()[1]) for line in lines)

most, taken = 0, 0
while taken < 24:
    for batch in loader:
        taken += 1
        most = max(most, proportional())
        if taken >= 24:
            break
print(most)
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    for i in range(8):
        scene(i, 40 + i, 50).save(files / f"n01440764_{i:05d}.JPEG", quality=90)
    folders = tmp_path / "folders"
    folders.mkdir()
    for k in range(1000):
        (folders / f"n{k:08d}").symlink_to(files)
    return folders


def most_memory(root: Path, count: int) -> int:
    """Bytes (shared pages counted once) of the trainer and two workers."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(root), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_million_entries_cost_little_memory(root: Path) -> None:
    few, many = most_memory(root, 1_000), most_memory(root, 1_281_167)
    print(f"{few / 1e6:.0f} MB, {many / 1e6:.0f} MB, growth {(many - few) / 1e6:.0f} MB")
    assert 30e6 < many - few < LIMIT  # below 30 MB nothing would have been loaded
