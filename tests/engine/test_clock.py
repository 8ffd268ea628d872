"""The clock of the training loop on a simulated device that is behind the host, in the loop itself."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli
import mini_cifar
import pytest

from pipeline import train
from pipeline.engine.distributed.parallel import World
from pipeline.engine.distributed.preemption import Interrupts
from pipeline.engine.evaluate import Evaluation
from pipeline.engine.metrics import Clock, Meters
from pipeline.engine.nonfinite import Latch
from pipeline.engine.train_step import TrainStep
from pipeline.run_folder.checkpoint_file import Checkpoints

ROWS, STEPS, EPOCHS = 4, 12, 6
HOST, DEVICE = 1e-4, 1e-3  # seconds of a step


@dataclass
class Machine:
    """A host and a device that takes steps from a queue. data: seconds that the loader takes for a batch; captures:
    number of the call in which a graph is captured, which waits for the device and takes a second."""

    data: float = 0.0
    captures: int = 0
    now: float = 100.0
    free: float = 0.0
    calls: int = 0

    def step(self) -> bool:
        """Queued, not awaited."""
        self.calls += 1
        captured = self.calls == self.captures
        if captured:
            self.sync()
            self.now += 1
        self.now += HOST
        self.free = max(self.free, self.now) + DEVICE
        return captured

    def sync(self) -> None:
        self.now = max(self.now, self.free)

    def stands_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For this machine's clock, steps, loader and reads. Evaluation and checkpoints take seconds of the host."""
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr(World, "behind", True, raising=False)
        monkeypatch.setattr(World, "wait", lambda world: self.sync(), raising=False)
        monkeypatch.setattr(TrainStep, "run", lambda *_, **__: self.step())
        for owner, name in ((Latch, "check"), (Meters, "read")):
            monkeypatch.setattr(owner, name, self._after(0.0, getattr(owner, name)))
        for owner, name in ((Evaluation, "__call__"), (Checkpoints, "save_last")):
            monkeypatch.setattr(owner, name, self._after(5.0, getattr(owner, name)))
        batches = Interrupts.awaited

        def awaited(interrupts: Interrupts, source: Any) -> Iterator[Any]:
            for batch in batches(interrupts, source):
                self.now += self.data
                yield batch

        monkeypatch.setattr(Interrupts, "awaited", awaited)

    def _after(self, seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(*arguments: Any, **named: Any) -> Any:
            self.sync()
            self.now += seconds
            return call(*arguments, **named)

        return waiting


def trained(folder: Path, machine: Machine, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    """Figures of each epoch, and at last those of the run."""
    mini_cifar.write(folder / "data", train=ROWS * STEPS, test=4)
    words = [
        *("dataset=cifar100", f"data.root={folder / 'data'}", "model=resnet8", "runtime.device=cpu"),
        *(f"data.batch_size={ROWS}", f"optim.epochs={EPOCHS}", "optim.milestones=[]", "log.tensorboard=false"),
        *(f"run.dir={folder}", "run.name=run", *more),
    ]
    with pytest.MonkeyPatch.context() as monkeypatch:
        machine.stands_in(monkeypatch)
        code, out, err = cli.call(train, words, capsys)
    assert code == 0, out + err
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return [*map(json.loads, lines), json.loads((folder / "run/summary.json").read_text())]


@pytest.mark.parametrize(
    "more",
    [("run.log_every=50",), ("run.log_every=5",), ("run.log_every=50", "run.checkpoint_steps=7")],
    ids=["epochs shorter than reads", "reads inside epochs", "checkpoints inside epochs"],
)
def test_what_the_device_still_does_is_computing(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 ms of the device a step, data always ready: 4,000 images/s, less the host's share after each read."""
    *epochs, run = trained(tmp_path, Machine(), capsys, *more)
    for figures in (*epochs, run):
        assert 0.94 * ROWS / DEVICE < figures["images_per_second"] <= ROWS / DEVICE * (1 + 1e-9)
        assert figures.get("data_wait", 0.0) == pytest.approx(0, abs=1e-9)


def test_steps_before_a_capture_do_not_lose_their_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The capture waits for them, and its own second is left out."""
    *epochs, run = trained(tmp_path, Machine(captures=2 * STEPS + 7), capsys, "run.log_every=50")
    for figures in (*epochs, run):
        assert 0.9 * ROWS / DEVICE < figures["images_per_second"] <= ROWS / DEVICE * (1 + 1e-9)
        assert figures.get("data_wait", 0.0) == pytest.approx(0, abs=1e-9)


def test_a_slow_loader_is_a_wait_for_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 ms of the loader beside 1 ms of the device: the last step of an epoch is all that comes on top."""
    *epochs, run = trained(tmp_path, Machine(data=3e-3), capsys, "run.log_every=1000")
    step = 3e-3 + HOST + DEVICE / STEPS
    for figures in epochs[1:]:
        assert figures["images_per_second"] == pytest.approx(ROWS / step)
        assert figures["data_wait"] == pytest.approx(3e-3 / step)
    assert run["images_per_second"] == pytest.approx(ROWS / step, rel=0.01)


def test_a_pause_counts_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    clock.steps = Clock.WARM_UP
    clock.step_done(8)
    now[0] += 2
    clock.computed()
    clock.pause()
    now[0] += 100
    clock.computed()
    assert (clock.images, clock.seconds, clock.waited) == (8, 2.0, 0.0)
