"""Where a stage runs, and what it has found: lines `stage | what | value | verdict`."""

import contextlib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pipeline.config import RuntimeConfig
from pipeline.engine.distributed import parallel, tf32
from pipeline.engine.distributed.parallel import World

FAILED = "FAILED"
CONTROL = (KeyboardInterrupt, SystemExit)


@dataclass
class Bench:
    """One stage on one device. out: folder of its lines and logs; scratch: one for data and run folders (memory)."""

    stage: str
    device: torch.device
    out: Path
    scratch: Path
    failed: list[str] = field(default_factory=list)

    @property
    def small(self) -> bool:
        """Whether it is only tried out: without a GPU, on tiny networks and few steps."""
        return self.device.type != "cuda"

    def world(self, runtime: RuntimeConfig) -> World:
        """One process on the device, with TF32 as asked."""
        return World(rank=0, ranks=1, device=self.device, side=None, tf32=tf32.settle(runtime, self.device))

    def say(self, what: str, value: str, verdict: str = "") -> None:
        """A line of the table, on stdout and in out/lines."""
        line = f"{self.stage:11s} | {what:46s} | {value} | {verdict}"
        print(line, flush=True)
        if verdict.startswith(FAILED):
            self.failed.append(what)
        with (self.out / "lines").open("a") as file:
            file.write(line + "\n")

    def judge(self, what: str, value: str, good: bool, limit: str = "") -> None:
        """A line that says whether it is as it must be."""
        self.say(what, value, ("ok" if good else FAILED) + (f", {limit}" if limit else ""))

    @contextlib.contextmanager
    def tried(self, what: str) -> Iterator[None]:
        """An exception is a line of the table, not the end; its traceback goes to out/STAGE.err."""
        try:
            yield
        except CONTROL:
            raise
        except BaseException as error:  # what compilers and drivers raise is no Exception at times
            first = next(iter(str(error).splitlines()), "")
            self.say(what, f"{type(error).__name__}: {first[:150]}", FAILED)
            with (self.out / f"{self.stage}.err").open("a") as file:
                file.write(f"--- {what}\n{traceback.format_exc()}\n")

    def settle(self) -> None:
        """As training does: cuDNN measures its kernels, and nothing is asked to be deterministic."""
        torch.backends.cudnn.benchmark = not self.small

    @contextlib.contextmanager
    def quick_traces(self) -> Iterator[None]:
        """Where it is only tried out, traces are replayed: compiling them takes a minute, and tests/engine does it."""
        before = parallel.compile_graph
        if self.small:
            parallel.compile_graph = lambda graph: graph
        try:
            yield
        finally:
            parallel.compile_graph = before


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest value of b."""
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-12))
