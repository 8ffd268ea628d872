"""What a run writes to go on later, and how it goes on."""

import time

from pipeline.config import TrainConfig, flatten
from pipeline.contracts import InputError
from pipeline.engine.components import Parts
from pipeline.engine.distributed.parallel import World
from pipeline.engine.fits import FORMAT, faults
from pipeline.engine.metrics import Clock
from pipeline.engine.reporting.reporter import Reporter
from pipeline.engine.state import State, capture, restore
from pipeline.engine.train_step import TrainStep
from pipeline.run_folder.folder import RunDir
from pipeline.run_folder.formulas import formulas
from pipeline.run_folder.metrics_file import Record, settle


class Resumable:
    """A run that can go on where it was left: what it is made of, and how far it is.

    done: steps of the optimiser; closed: epochs whose record is written; resumed: how often it went on.
    """

    parts: Parts
    config: TrainConfig
    world: World
    run: RunDir
    reporter: Reporter
    train_step: TrainStep
    steps_per_epoch: int
    total_steps: int

    def begin(self) -> None:
        """Nothing is done yet."""
        self.done = self.closed = self.resumed = 0
        self.records: list[Record] = []
        self.clock = Clock()
        self.wall_before = 0.0
        self.started = time.perf_counter()

    def wall(self) -> float:
        """Seconds of this run so far, in all its processes."""
        return self.wall_before + time.perf_counter() - self.started

    def state(self) -> State:
        """The content of a checkpoint, on the leader. All ranks must call it."""
        step = self.train_step
        return capture(step.module, step.updater, step.meters, self.world) | {
            "format": FORMAT,
            "config": flatten(self.config.numbers()),
            "formulas": formulas(self.parts.distiller, self.config.method),
            "position": {"done": self.done, "closed": self.closed, "steps_per_epoch": self.steps_per_epoch},
            "records": list(self.records[: self.closed]),
            "clock": {"images": self.clock.images, "seconds": self.clock.seconds},
            "graph": step.ran.graph,
            "tf32": step.ran.tf32,
            "resumed": self.resumed,
            "wall_seconds": self.wall(),
            **self.parts.said,
        }

    def resume(self) -> None:
        """Goes to where the folder's newest good checkpoint stands, and the folder's records with it.

        Raises InputError when the checkpoint is not one of this run, or when records are lost.
        """
        run, world, note = self.run, self.world, self.reporter.note
        state, complaints = run.checkpoints.load_last()  # every rank reads the file by itself
        for complaint in complaints:
            note(f"warning: {complaint}; {'the previous one is used' if state is not None else 'there is no other'}")
        kept: list[Record] | None = []
        if state is not None:
            self._take_up(state)
            kept = state["records"][: self.closed] if "records" in state else None
        self.records, said = world.on_leader(lambda: settle(run.metrics, kept, self.closed))
        world.on_leader(lambda: run.checkpoints.settle_best(self.closed))
        for text in said:
            note(text)
        if state is not None:
            note(f"resumed at step {self.done} of {self.total_steps} from {run.checkpoints.last}")

    def _take_up(self, state: State) -> None:
        step = self.train_step
        wrong = faults(state, step.module, step.updater, self.config, self.steps_per_epoch)
        if wrong:
            raise InputError(
                f"the checkpoint in {self.run.checkpoints.folder} does not fit this run ({'; '.join(wrong)}): choose "
                "run.name, or run.resume=never to set the folder aside"
            )
        restore(state, step.module, step.updater, step.meters, self.world)
        done, closed = state["position"]["done"], state["position"]["closed"]
        self.done = done
        # A run that was limited has closed the epoch that it was cut in: without the limit this epoch goes on.
        self.closed = closed if done >= self.total_steps else min(closed, done // self.steps_per_epoch)
        self.resumed = state["resumed"] + 1
        step.ran.earlier_graph, step.ran.earlier_tf32 = state.get("graph"), state.get("tf32")
        self.wall_before = state["wall_seconds"]
        self.clock = Clock(**state["clock"])
