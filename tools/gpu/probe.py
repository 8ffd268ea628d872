"""One stage of a first run on a GPU, in a process of its own.

python tools/gpu/probe.py STAGE [--device cpu]

Lines `stage | what | value | verdict` go to stdout and to $OUT/lines (OUT: default /tmp/gpu_logs). --device cpu tries
a stage out, tiny, where no GPU is. Exit codes: 0 as it must be, 1 something FAILED, 2 no such stage or no GPU.
"""

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "tests"))  # mini_cifar, recorded_steps: one copy of what tests and stages step with

import pipeline  # noqa: F401  before torch: see pipeline/__init__.py

# isort: split
import torch

from tools.gpu.probes import STAGES
from tools.gpu.probes.bench import Bench

MEMORY = Path("/dev/shm")  # no disk is measured


def run(stage: str, device: str, out: Path, scratch: Path) -> Bench:
    """The stage's findings. device: cuda or cpu."""
    out.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    place = torch.device("cuda", 0) if device == "cuda" else torch.device(device)
    bench = Bench(stage, place, out, scratch)
    with bench.tried("the stage"):
        importlib.import_module(f"tools.gpu.probes.{stage}").run(bench)
    return bench


def main() -> int:
    """The exit code; see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.backends.cuda.is_built():
        print("error: this torch was built without CUDA (--device cpu tries a stage out)", file=sys.stderr)
        return 2
    out = Path(os.environ.get("OUT", "/tmp/gpu_logs"))
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        return 1 if run(given.stage, given.device, out, Path(scratch)).failed else 0


if __name__ == "__main__":
    sys.exit(main())
