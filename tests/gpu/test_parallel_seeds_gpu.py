"""Seeds side by side on one GPU: the files of seeds trained one after another; what five cost is printed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_resume import assert_same_run

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]
SEEDS = 5


def seconds_of(folder: Path, seeds: int, at_once: str, steps: int = 400) -> float:
    """Wall time of a whole process that trains `seeds` for so many steps each."""
    words = [
        "dataset=synthetic", "model=resnet8x4", "data.batch_size=64", "optim.epochs=13", f"run.limit_steps={steps}",
        "run.eval_every=13", f"seeds={seeds}", "runtime.device=cuda", "runtime.deterministic=true",
        f"runtime.parallel_seeds={at_once}", "log.tensorboard=false", f"run.dir={folder}", "run.name=x",
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ROOT / "pipeline" / "train.py"), *words], capture_output=True, text=True, cwd=folder,
        env=os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - started


def test_seeds_in_forks_have_the_files_of_seeds_in_turn(tmp_path: Path) -> None:
    for name, at_once in (("apart", "off"), ("together", "2")):
        (tmp_path / name).mkdir()
        seconds_of(tmp_path / name, 2, at_once, steps=40)
    for seed in range(2):
        assert_same_run(tmp_path / "apart" / "x" / f"seed{seed}", tmp_path / "together" / "x" / f"seed{seed}")


@pytest.mark.slow
def test_five_seeds_share_the_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files are equal; the ratio of times is printed, not asserted."""
    folders = {name: tmp_path / name for name in ("one", "apart", "together")}
    for folder in folders.values():
        folder.mkdir()
    one = seconds_of(folders["one"], 1, "off")
    apart = seconds_of(folders["apart"], SEEDS, "off")
    together = seconds_of(folders["together"], SEEDS, "auto")
    for seed in range(SEEDS):
        assert_same_run(folders["apart"] / "x" / f"seed{seed}", folders["together"] / "x" / f"seed{seed}")
    mps = "CUDA_MPS_PIPE_DIRECTORY" in os.environ
    with capsys.disabled():
        print(
            f"\none seed {one:.1f} s; {SEEDS} seeds one by one {apart:.1f} s, at once {together:.1f} s "
            f"(MPS {'named' if mps else 'not named'}): {together / one:.2f} times one run, "
            f"{apart / together:.2f} times faster than one by one"
        )
