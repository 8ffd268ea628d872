"""The training loop: steps, epochs, evaluation, checkpoints, resume."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NoReturn

import torch

from pipeline.config import TrainConfig
from pipeline.contracts import Distiller
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World, recorder_for
from pipeline.engine.distributed.preemption import Interrupted, Interrupts, Stopped
from pipeline.engine.evaluate import Evaluation, Score, predicting
from pipeline.engine.graph.backends import Recorder
from pipeline.engine.reporting.bad_images import ReplacedImages
from pipeline.engine.reporting.reporter import Reporter
from pipeline.engine.reporting.trackers import Tracker, log_to, open_trackers
from pipeline.engine.resume import Resumable
from pipeline.engine.schedule import learning_rate
from pipeline.engine.teacher_pass import teach
from pipeline.engine.train_step import StepAt, TrainStep
from pipeline.engine.warm_up import warm_up
from pipeline.run_folder.folder import RunDir
from pipeline.run_folder.metrics_file import Record
from pipeline.run_folder.summary import best_record, finish_text, summarise

PREDICTOR = "predictor."


class CheckpointNotWritten(RuntimeError):
    """The disk refused a file of the run (full, gone); the last good checkpoint stands."""


def predictor_state(distiller: Distiller) -> dict[str, torch.Tensor]:
    """What inference needs of the method, by the names it has in the student's file; {} for most methods."""
    other = distiller.predictor()
    return {} if other is None else {f"{PREDICTOR}{key}": value for key, value in other.state_dict().items()}


class Trainer(Resumable):
    """One run in one folder, from wherever it stands to its end. Counts from 0 inside; people read from 1."""

    def __init__(self, parts: Parts, config: TrainConfig, world: World, run: RunDir, reporter: Reporter) -> None:
        self.parts, self.config, self.world, self.run, self.reporter = parts, config, world, run, reporter
        recorder = recorder_for(config.runtime, world)
        self.train_step = TrainStep(parts, config, world, recorder, reporter.note)
        self.module, self.updater = self.train_step.module, self.train_step.updater
        self.meters, self.latch, self.ran = self.train_step.meters, self.train_step.latch, self.train_step.ran
        self.evaluations = self._evaluations(recorder if recorder is not None and recorder.evaluations else None)
        self.replaced = ReplacedImages((parts.train, *parts.evaluations.values()), world, run.folder, reporter)
        self.steps_per_epoch = len(parts.train)
        whole = config.optim.epochs * self.steps_per_epoch
        self.total_steps = min(whole, config.run.limit_steps or whole)
        self.epochs = -(-self.total_steps // self.steps_per_epoch)
        self.saved = (-1, -1)  # steps and epochs at the last checkpoint of this process
        self.begin()

    # ---- the run -----------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, Any]:
        """Trains to the end and returns the summary. Raises Interrupted, NonFiniteLoss, CheckpointNotWritten."""
        warm_up(self.train_step)
        self.resume()
        finished = self.world.on_leader(self._finished)
        if finished is not None:
            self.reporter.note(f"already complete: {finish_text(finished, self.run.folder)}")
            return finished
        if self.done == 0 and self.parts.distiller.teacher_pass:
            teach(self.parts.distiller, self.parts.teacher, self.parts.train, self.world)
        trackers: list[Tracker] = []
        log, folder = self.config.log, self.run.folder
        self.world.on_leader(lambda: trackers.extend(open_trackers(log, folder, self.config, self.closed)))
        interrupts = Interrupts(self.world)
        try:
            while self.closed < self.epochs:
                self.train_epoch(interrupts)
                record = self._close_epoch(interrupts)
                self._publish(partial(log_to, trackers, record))
                if self.closed < self.epochs:
                    interrupts.stop_if_asked()
            interrupts.drain()
        except Stopped as stopped:
            self._save_and_stop(stopped.number, interrupts)
        finally:
            self.reporter.end_epoch()
            interrupts.restore()
            for tracker in trackers:
                with contextlib.suppress(OSError):  # each record was flushed, or has said what is wrong
                    tracker.close()
        return self._finish()

    def _finished(self) -> dict[str, Any] | None:
        """The summary of a run that is complete; None where something is left to do."""
        if self.closed < self.epochs or not self.run.student.is_file():
            return None
        summary, said = self.run.finished_summary()
        for text in said:
            self.reporter.note(text)
        return summary

    def train_epoch(self, interrupts: Interrupts) -> None:
        """The steps that are left of the present epoch (or of the run, when it ends inside)."""
        first = self.done - self.closed * self.steps_per_epoch
        stop = min((self.closed + 1) * self.steps_per_epoch, self.total_steps)
        if self.done >= stop:
            return
        if first == 0:
            self.meters.reset()
        self.parts.train.set_epoch(self.closed, first)
        self.parts.train.drafts = self.train_step.takes_drafts
        self.train_step.train_mode()
        self.reporter.start_epoch(self.closed + 1, self.epochs, first, self.steps_per_epoch)
        self.clock.start_epoch()
        for batch in interrupts.awaited(self.parts.train):
            self.clock.data_arrived()
            if self.train_step.run(batch, self._at()):
                self.clock.leave_out()
            self.done += 1
            self._after_step(interrupts)
            if self.done >= stop:
                break
        self.parts.train.drafts = False
        self.reporter.end_epoch()

    def _at(self) -> StepAt:
        """Where the next step is taken."""
        rate = learning_rate(self.config.optim, self.done, self.steps_per_epoch)
        rows = self._rows_of(self.done % self.steps_per_epoch)
        return StepAt(number=self.done, progress=self.done / self.steps_per_epoch, rate=rate, rows=rows)

    def train_steps(self, steps: int, interrupts: Interrupts) -> None:
        """`steps` further steps, over the borders of epochs; nothing is evaluated or saved there (benchmarks)."""
        self.total_steps = self.done + steps
        while self.done < self.total_steps:
            self.closed = self.done // self.steps_per_epoch
            self.train_epoch(interrupts)

    def _rows_of(self, step: int) -> int:
        """Images of global batch `step` of an epoch."""
        size = self.config.data.batch_size
        return min(size, self.parts.train.num_samples - step * size)

    def _after_step(self, interrupts: Interrupts) -> None:
        run = self.config.run
        in_epoch = self.done - self.closed * self.steps_per_epoch
        self.clock.step_done(self._rows_of(in_epoch - 1))
        if not self.clock.counts:  # the device does not carry what was left out into what counts
            self.world.wait()
            self.clock.resume()
        self.reporter.step_done()
        if self.done % run.log_every == 0:
            figures = self._figures()
            left = (self.total_steps - self.done) * self.config.data.batch_size
            speed = figures["images_per_second"] or float("inf")
            self.reporter.figures(self.closed + 1, self.epochs, in_epoch, self.steps_per_epoch, figures, left / speed)
        wish = interrupts.poll()
        due = not wish and run.checkpoint_steps and self.done % run.checkpoint_steps == 0
        if wish or due:
            self.world.wait()
        self.clock.computed(behind=self.world.behind)
        if wish:
            raise Stopped(wish)
        if due:
            self._save_last(interrupts)
            self.clock.resume()

    def _figures(self) -> dict[str, Any]:
        """Meters and clock of the epoch so far, read from the device. Raises NonFiniteLoss."""
        self.latch.check(self.world)
        figures = self.meters.read(self.world)
        self.clock.computed()
        return figures | self.clock.epoch_figures()

    def _save_and_stop(self, number: int, interrupts: Interrupts) -> NoReturn:
        """The answer to a signal: a checkpoint, where it holds more than the last one, and the end."""
        if not interrupts.saves:
            raise Stopped(number)
        if (self.done, self.closed) != self.saved:
            self._save_last(interrupts)
        text = f"stopped after step {self.done}, checkpoint written"
        pending = self.done >= min((self.closed + 1) * self.steps_per_epoch, self.total_steps)
        raise Interrupted(number, f"{text}; its epoch is evaluated when the run goes on" if pending else text)

    def _close_epoch(self, interrupts: Interrupts) -> Record:
        """Evaluates and records. A signal in between leaves the epoch open, for a resumed run to close."""
        epoch = self.closed + 1
        lr = learning_rate(self.config.optim, self.done - 1, self.steps_per_epoch)
        figures = self._figures()
        self.clock.pause()
        evaluated = epoch % self.config.run.eval_every == 0 or epoch == self.epochs
        with self._inference():
            scores = {
                name: self.evaluations[name](interrupts) if evaluated else None for name in self.parts.evaluations
            }
            record = self._record(epoch, lr, figures, scores)
            self.records.append(record)
            if evaluated and best_record(self.records, self.config.select_on) is record:
                best = {"model": self.parts.student.state_dict(), "epoch": epoch, "top1": record["test_top1"]}
                best |= {"distiller": self.parts.distiller.state_dict(), **self.parts.said}
                self._publish(lambda: self.run.checkpoints.save_best(best))
        self._publish(lambda: self.run.append(record))
        self.closed = epoch
        self._save_last(interrupts)
        self._publish(self.run.checkpoints.publish_best)
        if self.config.run.keep_every and epoch % self.config.run.keep_every == 0:
            self._publish(lambda: self.run.checkpoints.keep(epoch))
        self.reporter.record(record, self.epochs)
        return record

    def _inference(self) -> AbstractContextManager[None]:
        return predicting(self.parts.student, self.parts.distiller, self.updater, self.world)

    def _evaluations(self, recorder: Recorder | None) -> dict[str, Evaluation]:
        parts, network, data = self.parts, self.parts.student, self.config.data
        features, flip = parts.distiller.student_features, data.eval_flip
        arguments, world, autocast = (network, parts.distiller.predict), self.world, parts.autocast
        more: dict[str, Any] = {"features": features, "flip": flip, "recorder": recorder, "note": self.reporter.note}
        return {
            name: Evaluation(*arguments, loader, world, autocast, **more) for name, loader in parts.evaluations.items()
        }

    def _record(self, epoch: int, lr: float, figures: dict[str, Any], scores: dict[str, Score | None]) -> Record:
        record: Record = {"epoch": epoch, "lr": lr, **figures}
        for name, score in scores.items():
            record[f"{name}_loss"] = score.loss if score else None
            record[f"{name}_top1"] = score.top1 if score else None
            record[f"{name}_top5"] = score.top5 if score else None
        earlier = sum(r["seconds"] for r in self.records)
        record["seconds"] = max(self.wall() - earlier, 0.0)
        return record

    def _finish(self) -> dict[str, Any]:
        summary = summarise(
            self.config,
            self.records,
            graph=self.ran.finish(),
            images_per_second=self.clock.images_per_second,
            wall_seconds=self.wall(),
            parameters=sum(p.numel() for p in self.parts.student.parameters()),
            added=self.parts.distiller.added_parameters(),
            kept=sum(v.numel() for v in predictor_state(self.parts.distiller).values()),
            resumed=self.resumed,
            steps=self.done,
            replaced_images=len(self.replaced),
            tf32=self.ran.tf32 or self.world.tf32,
        )
        with self._inference():
            state = self.parts.student.state_dict() | predictor_state(self.parts.distiller)
            names = {k: summary[k] for k in ("dataset", "method", "student", "seed")} | self.parts.said
            self._publish(lambda: self.run.write_student(state, names))
        self._publish(lambda: self.run.write_summary(summary))
        self.reporter.note(finish_text(summary, self.run.folder))
        return summary

    # ---- state -------------------------------------------------------------------------------------------------------

    def _save_last(self, interrupts: Interrupts) -> None:
        interrupts.saving()
        self.latch.check(self.world)
        self.replaced.settle(self._publish)
        state = self.state()
        self._publish(lambda: self.run.checkpoints.save_last(state))
        self.saved = (self.done, self.closed)

    def _publish(self, write: Callable[[], object]) -> None:
        """The leader writes; when it cannot, every rank stops with the reason."""
        try:
            self.world.on_leader(write)
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointNotWritten(
                f"cannot write to {self.run.folder}: {reason}; the last good checkpoint stands"
            ) from None
