"""One optimiser step with all that is kept of it: networks, losses, update, averages, meters, latch.

It is one graph where that is asked for and possible (runtime.compile=graph).

Outside stay what comes from the host: learning rate, progress and step number (tensors that are filled), the batch, and
what a recorded teacher says of it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput
from pipeline.engine.distributed.parallel import as_graph
from pipeline.engine.graph.backends import Recorder
from pipeline.engine.graph.cache import PLAINLY, Recorded
from pipeline.engine.metrics import Meters
from pipeline.engine.nonfinite import Latch
from pipeline.engine.runner import StepRunner

OFF, FALLBACK, THEN = "off", "fallback", ", then "
ANSWER = "answer"
PARTS = ("logits_BK", "pooled_BD")


def in_turn(earlier: str | None, own: str | None) -> str | None:
    """What a run's processes did, one after the other; `own`: the present one."""
    told = [] if earlier is None else earlier.split(THEN)
    if own is not None and own not in told:
        told.append(own)
    return THEN.join(told) or None


class WholeStep:
    """Takes steps with `runner`; recorder: what makes graphs, None = plain steps.

    A method that is not capturable, an update rule that reads the host, or a recorded teacher with slices of batches
    (optim.accumulate) makes the steps plain ones; `note` is told so. earlier: what the steps of
    the run's earlier processes ran as (`graph`); earlier_tf32: the same of `tf32`.
    """

    def __init__(
        self,
        runner: StepRunner,
        meters: Meters,
        latch: Latch,
        note: Callable[[str], Any],
        recorder: Recorder | None,
    ) -> None:
        self.runner, self.meters, self.latch, self.note = runner, meters, latch, note
        self.earlier: str | None = None
        self.earlier_tf32: str | None = None
        self._taken = False
        self._reasons: list[str] = []
        reason = self._why_plain(recorder) if as_graph(runner.config.runtime) else None
        if reason:
            self._fall_back(reason, PLAINLY)
        self.recorded = Recorded(self._on, None if reason else recorder, self._fall_back, self._state, runner.forget)
        self._batch: Batch | None = None
        self._rows = 0

    def _fall_back(self, reason: str, instead: str) -> None:
        if reason not in self._reasons:
            self._reasons.append(reason)
            self._say(reason, instead)

    def _say(self, reason: str, instead: str) -> None:
        self.note(f"runtime.compile={self.runner.config.runtime.compile}: {reason}; steps {instead}")

    @property
    def graph(self) -> str | None:
        """What the run's steps ran as, all its processes told in turn; None while nothing is recorded yet."""
        return in_turn(self.earlier, self._own_graph())

    @property
    def tf32(self) -> str | None:
        """Where TF32 was in force, all the run's processes told in turn; None before there was a step."""
        return in_turn(self.earlier_tf32, self.runner.world.tf32 if self._taken else None)

    def _own_graph(self) -> str | None:
        recorder = self.recorded.recorder
        if not self._taken:
            return None
        if not as_graph(self.runner.config.runtime):
            return OFF
        if self._reasons:
            return f"{FALLBACK}: {self._reasons[0]}"
        return recorder.makes if recorder is not None and self.recorded.graphs else None

    def finish(self) -> str:
        """`graph` at the end of the run, for its summary."""
        if self.graph is None and as_graph(self.runner.config.runtime):
            self._taken = True
            self._fall_back("no batch of one shape came often enough to be recorded", "ran plainly")
        return self.graph or OFF

    def _why_plain(self, recorder: Recorder | None) -> str | None:
        """Why there can be no graph, None where there can."""
        runner = self.runner
        if recorder is None:
            return "several ranks on CPUs exchange gradients outside any graph"
        if not runner.parts.distiller.capturable:
            return f"method {runner.config.method} reads values on the host"
        if not (runner.updater.skips_on_device or runner.updater.scaler.is_enabled()):
            return f"optim.name={runner.config.optim.name} reads on the host whether to skip a step"
        if runner.parts.teacher.recorded and runner.config.optim.accumulate > 1:
            return "a recorded teacher is looked up for whole batches, not for the slices of optim.accumulate"
        return None

    def __call__(self, batch: Batch, rows: int, *, number: int, steps_per_epoch: int, rate: float) -> bool:
        """Step `number` of the run, on this rank's part of a global batch of `rows`. True: it made a graph."""
        self._taken = True
        self.runner.updater.set_lr(rate)
        self.runner.progress.fill_(number / steps_per_epoch)
        self.latch.now.fill_(number)
        if self.recorded.recorder is None:
            self.runner.on_its_stream(lambda: self._take(batch.finished(), rows, {}))
            return False
        self._batch, self._rows = batch, rows
        answers = {
            f"{ANSWER} {stream} {part}": getattr(output, part)
            for stream, output in self.runner.looked_up(self._for_look_ups(batch)).items()
            for part in PARTS
        }
        short = rows < self.runner.config.data.batch_size
        return self.recorded(batch.tensors() | answers, (rows, batch.share, batch.stream), short=short)

    def _on(self, tensors: Mapping[str, Tensor]) -> None:
        """The step on `tensors` in place of the batch's own."""
        assert self._batch is not None
        streams = dict.fromkeys(name.split(" ")[1] for name in tensors if name.startswith(ANSWER))
        answers = {s: self._answer(tensors, s) for s in streams}
        recorder = self.recorded.recorder
        fuse = None if recorder is None else partial(recorder.fuse, fallback=self._say)
        batch = self._batch.of(tensors).finished(fuse)
        self._take(batch, self._rows, answers)

    def _for_look_ups(self, batch: Batch) -> Batch:
        """With pixels where the teacher's records are compared with what the live teacher says."""
        return batch.finished() if self.runner.parts.teacher.compares else batch

    @property
    def takes_drafts(self) -> bool:
        """Whether batches may come without their pixels."""
        return self.recorded.recorder is not None

    def _state(self) -> list[Tensor]:
        """All that a step changes."""
        runner, latch = self.runner, self.latch
        taught = [m for m in vars(runner.parts.teacher).values() if isinstance(m, nn.Module)]  # train-mode statistics
        modules = [buffer for module in (runner.module, *taught) for buffer in module.buffers()]
        kept = [self.meters.total, latch.step, latch.terms, latch.index]
        return [*runner.module.parameters(), *modules, *runner.updater.tensors(), *kept]

    @staticmethod
    def _answer(tensors: Mapping[str, Tensor], stream: str) -> ModelOutput:
        logits_BK, pooled_BD = (tensors[f"{ANSWER} {stream} {part}"] for part in PARTS)
        return ModelOutput(logits_BK, pooled_BD)

    def _take(self, batch: Batch, rows: int, answers: Mapping[str, ModelOutput]) -> None:
        self.runner.answers = answers
        outputs, merged, bad = self.runner.run(batch, rows)
        for output, part in outputs:
            self.meters.add(output, part)
        self.latch.observe(bad, merged, batch)
