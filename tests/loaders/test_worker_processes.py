"""Worker processes: same pixels, clean restarts, signals, and an end with the trainer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_sets import array_set, augmented

from pipeline.loaders import LOADERS

ROOT = Path(__file__).resolve().parents[2]

TRAINER = """
import os, sys, time
import torch
from small_sets import array_set, augmented
from pipeline.loaders import LOADERS

loader = LOADERS.get("torch")(array_set(), augmented(workers=1))
batches = iter(loader)
next(batches)
print(*(c.strip() for c in open(f"/proc/self/task/{os.getpid()}/children").read().split()), flush=True)
sys.stdin.readline()
print(sum(len(batch.label_B) for batch in batches), flush=True)
"""


def same(a, b):
    return torch.equal(a.image_BCHW, b.image_BCHW) and torch.equal(a.index_B, b.index_B)


def alive(pid):
    """Whether the process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def trainer():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{Path(__file__).parent}"}
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    yield process
    process.kill()
    process.wait()


def test_workers_change_nothing_even_after_an_abandoned_epoch():
    image_set = array_set()
    alone = LOADERS.get("torch")(image_set, augmented(workers=0))
    random_state = torch.random.get_rng_state()
    for workers in (1, 2):
        loader = LOADERS.get("torch")(image_set, augmented(workers=workers))
        loader.set_epoch(0)
        for taken, _ in enumerate(loader, 1):
            if taken == 2:
                break
        # Workers have fetched further by now: those batches must neither count nor turn up later.
        assert loader.state_dict() == {"epoch": 0, "step": 2}
        for epoch, step in ((0, 2), (1, 0), (5, 4)):
            alone.set_epoch(epoch, step)
            loader.set_epoch(epoch, step)
            assert all(same(a, b) for a, b in zip(alone, loader, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_signals_to_the_group_leave_workers_at_work(trainer):
    (worker,) = map(int, trainer.stdout.readline().split())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker, number)
    out, _ = trainer.communicate("\n", timeout=60)
    assert out.strip() == "54"  # 70 less the first batch
    assert trainer.returncode == 0 and not alive(worker)


def test_a_killed_trainer_leaves_no_workers(trainer):
    (worker,) = map(int, trainer.stdout.readline().split())
    assert alive(worker)
    trainer.kill()
    end = time.monotonic() + 30
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(worker)


def test_a_killed_trainer_leaves_no_stopped_worker(trainer):
    (worker,) = map(int, trainer.stdout.readline().split())
    os.kill(worker, signal.SIGSTOP)
    trainer.kill()
    end = time.monotonic() + 30
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(worker)
