"""What a run writes to go on later, and how it goes on."""

from typing import TYPE_CHECKING

from pipeline.config import flatten
from pipeline.contracts import InputError
from pipeline.engine.fits import FORMAT, faults
from pipeline.engine.metrics import Clock
from pipeline.engine.state import State, capture, restore
from pipeline.run_folder.formulas import formulas
from pipeline.run_folder.metrics_file import Record, settle

if TYPE_CHECKING:
    from pipeline.engine.trainer import Trainer


def state_of(trainer: "Trainer") -> State:
    """The content of a checkpoint, on the leader. All ranks must call it."""
    state: State = capture(trainer.module, trainer.updater, trainer.meters, trainer.world)
    steps = trainer.steps_per_epoch
    return state | {
        "format": FORMAT,
        "config": flatten(trainer.config.numbers()),
        "formulas": formulas(trainer.parts.distiller, trainer.config.method),
        "position": {"done": trainer.done, "closed": trainer.closed, "steps_per_epoch": steps},
        "records": list(trainer.records[: trainer.closed]),
        "clock": {"images": trainer.clock.images, "seconds": trainer.clock.seconds},
        "graph": trainer.take_step.graph,
        "tf32": trainer.take_step.tf32,
        "resumed": trainer.resumed,
        "wall_seconds": trainer.wall(),
        **trainer.parts.said,
    }


def resume(trainer: "Trainer") -> None:
    """Puts the trainer where the folder's newest good checkpoint stands, and the folder's records with it.

    Raises InputError when the checkpoint is not one of this run, or when records are lost.
    """
    run, world, note = trainer.run, trainer.world, trainer.reporter.note
    state, complaints = run.checkpoints.load_last()  # every rank reads the file by itself
    for complaint in complaints:
        note(f"warning: {complaint}; {'the previous one is used' if state is not None else 'there is no other'}")
    kept: list[Record] | None = None if state is not None else []
    if state is not None:
        wrong = faults(state, trainer.module, trainer.updater, trainer.config, trainer.steps_per_epoch)
        if wrong:
            raise InputError(
                f"the checkpoint in {run.checkpoints.folder} does not fit this run ({'; '.join(wrong)}): choose "
                "run.name, or run.resume=never to set the folder aside"
            )
        restore(state, trainer.module, trainer.updater, trainer.meters, world)
        done, closed = state["position"]["done"], state["position"]["closed"]
        trainer.done = done
        # A run that was limited has closed the epoch that it was cut in: without the limit this epoch goes on.
        trainer.closed = closed if done >= trainer.total_steps else min(closed, done // trainer.steps_per_epoch)
        trainer.resumed = state["resumed"] + 1
        trainer.take_step.earlier, trainer.take_step.earlier_tf32 = state.get("graph"), state.get("tf32")
        trainer.wall_before = state["wall_seconds"]
        trainer.clock = Clock(**state["clock"])
        kept = state["records"][: trainer.closed] if "records" in state else None
    trainer.records, said = world.on_leader(lambda: settle(run.metrics, kept, trainer.closed))
    world.on_leader(lambda: run.checkpoints.settle_best(trainer.closed))
    for text in said:
        note(text)
    if state is not None:
        note(f"resumed at step {trainer.done} of {trainer.total_steps} from {run.checkpoints.last}")
