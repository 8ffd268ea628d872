"""Train a network, alone (method=vanilla) or distilled from a teacher.

python pipeline/train.py dataset=cifar100 data.root=D model=resnet56
torchrun --nproc-per-node 2 pipeline/train.py dataset=cifar100 data.root=D pair=resnet56-resnet20 method=kd \\
    teacher.checkpoint=runs/cifar100/vanilla/resnet56/seed0
"""

import contextlib
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen(signals.GOES_ON, signals.EXIT_CODE)

from pipeline import cli  # before torch: see pipeline/__init__.py

# isort: split
import torch

from pipeline.builders.names import train_config
from pipeline.builders.networks import new_classifier
from pipeline.builders.run import build, build_sets, one_seed
from pipeline.builders.teacher_values import refuse_earlier, start_lines, with_own_values
from pipeline.config import TrainConfig, describe
from pipeline.contracts import InputError
from pipeline.datasets import ImageSet
from pipeline.distillers import DISTILLERS
from pipeline.engine.components import Parts
from pipeline.engine.distributed import parallel, preemption, tf32
from pipeline.engine.distributed.parallel import World
from pipeline.engine.first_stage import run_first_stage
from pipeline.engine.nonfinite import NonFiniteLoss
from pipeline.engine.reporting.reporter import Reporter
from pipeline.engine.seeds import Outcome, prepare_to_fork, share_out, train_together
from pipeline.engine.seeds.display import Display
from pipeline.engine.trainer import CheckpointNotWritten, Trainer
from pipeline.loaders import LOADERS
from pipeline.models import MODELS
from pipeline.run_folder.earlier_defaults import as_begun, as_recorded
from pipeline.run_folder.folder import RunDir
from pipeline.run_folder.summary import seeds_text
from pipeline.utils.atomic import write_json

FAILURES: dict[type[Exception], int] = {
    preemption.Interrupted: preemption.EXIT_CODE,
    NonFiniteLoss: 1,
    CheckpointNotWritten: 1,
}
SIGNALLED = 128  # + the number of the signal: the exit code of what was killed, as shells have it
Sets = tuple[ImageSet, ImageSet]
Locks = contextlib.ExitStack
ASIDE = "the earlier run was set aside as {}"


def help_text() -> str:
    """What --help prints."""
    parts = {"methods": DISTILLERS.names(), "models": MODELS.names()}
    known = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in parts.items())
    codes = "exit codes: 0 done, 2 bad configuration or input, 75 stopped by a signal (start again to go on), 1 other"
    return describe(__doc__ or "", TrainConfig, f"\n{known}\n{codes}")


def header(config: TrainConfig, parts: Parts, world: World, train_images: int) -> list[str]:
    """The lines that say what is about to run."""
    parameters = sum(p.numel() for p in parts.student.parameters())
    rows = config.data.batch_size / world.ranks
    lines = [
        f"{config.dataset}: {train_images} training images, {parts.evaluations['test'].num_samples} test images",
        f"{config.method} {config.pair or config.student.model} (variant {config.variant}, recipe {config.recipe}), "
        f"student {config.student.model} {parameters:,} parameters, seed {config.seed}",
        f"batch {config.data.batch_size} over {world.ranks} rank(s) = {rows:g} each on {world.device.type}, "
        f"lr {config.optim.lr:g}, {config.optim.epochs} epochs of {len(parts.train)} steps",
        tf32.header(config.runtime, world.device, world.tf32),
    ]
    taught = parts.teacher.network
    if taught is not None:
        lines.insert(2, f"teacher {config.teacher.model} {sum(p.numel() for p in taught.parameters()):,} parameters")
    classes = (parts.description or {}).get("num_classes", 0)
    anew = new_classifier(str(config.student.model), config.student.checkpoint, classes)
    if anew:
        lines.append(f"student.checkpoint=auto: {anew} at first")
    if world.ranks > 1 and not config.runtime.sync_bn:
        lines.append("batch-norm statistics are per rank (runtime.sync_bn=true: over all ranks)")
    if parts.distiller.needs and config.teacher.checkpoint == "none":
        lines.append("warning: teacher.checkpoint=none, the teacher is untrained: for benchmarks only")
    return lines


def folder_of(config: TrainConfig) -> RunDir:
    """The folder of one run."""
    return RunDir(Path(config.run.dir) / str(config.run.name))


def train_one(
    config: TrainConfig, run: RunDir, locks: Locks, world: World, reporter: Reporter, sets: Sets | None = None
) -> dict[str, Any]:
    """One run in its folder; returns its summary. sets: training and test set where they have been read before.

    The leader holds the folder until `locks` ends.
    """
    if config.run.resume != "never":
        config = as_recorded(config, run.folder)
    begun = None if config.run.resume == "never" else run.folder
    config, lines = with_own_values(config, begun)
    parts, images = build(config, world, sets)
    if begun is not None and parts.teacher.network is not None:
        refuse_earlier(begun, parts.teacher.network)
    if config.run.resume == "never":
        aside = world.on_leader(run.set_aside)
        if aside is not None:
            reporter.note(ASIDE.format(aside))
    world.on_leader(lambda: locks.enter_context(run.locked()))
    world.on_leader(lambda: run.claim(config, parts.description))
    for line in [*header(config, parts, world, images), *start_lines(config), *lines]:
        reporter.note(line)
    # What networks draw as they train (dropout) is the seed's, each rank's its own; resuming puts it back.
    torch.manual_seed(config.seed * 1000 + 100 + world.rank)
    run_first_stage(parts, config, world, run, reporter)
    return Trainer(parts, config, world, run, reporter).fit()


def hold(runs: Iterable[RunDir], locks: Locks) -> None:
    """Takes the folders of all seeds that have begun, until `locks` ends: what is finished may not be set aside by
    another process while the rest is trained. Raises InputError when one is in use."""
    for run in runs:
        if run.begun:
            locks.enter_context(run.locked())


def seeds_of(config: TrainConfig) -> list[tuple[TrainConfig, RunDir]]:
    """Configuration and folder of each seed; those that have not begun go by the defaults of those that have."""
    runs = [(seeded, folder_of(seeded)) for seeded in (one_seed(config, k) for k in range(config.seeds))]
    if len(runs) == 1 or config.run.resume == "never":
        return runs
    begun = as_begun(config, [run.folder for _, run in runs])
    return [(one_seed(begun, k).model_copy(update={"run": seeded.run}), run) for k, (seeded, run) in enumerate(runs)]


def one_after_another(config: TrainConfig) -> None:
    """Every seed in this process, on this rank."""
    runs = seeds_of(config)
    with parallel.start(config.runtime) as world, contextlib.ExitStack() as locks:
        reporter = Reporter(leader=world.leader)
        if len(runs) > 1:
            world.on_leader(lambda: hold((run for _, run in runs), locks))
        summaries = [train_one(seeded, run, locks, world, reporter) for seeded, run in runs]
        if len(summaries) > 1:
            world.on_leader(lambda: write_seeds(config, summaries))
            reporter.note(seeds_text(summaries))


def at_once(config: TrainConfig) -> None:
    """Every seed in a process of its own, several side by side. Ends the process when one of them has failed."""
    if parallel.world_size()[1] > 1:
        raise InputError(
            "runtime.parallel_seeds trains each seed on one rank: start it by python, not by torchrun with several "
            "ranks, or leave it off"
        )
    runs = {seeded.seed: (seeded, run) for seeded, run in seeds_of(config)}
    share, display = share_out(len(runs), config.runtime), Display()
    prepare_to_fork()
    LOADERS.names()  # imports them
    # In this process once: whatever is missing is said before anything starts, and the memory is all seeds' own.
    sets = build_sets(config, World(rank=0, ranks=1, device=torch.device("cpu"), side=None))

    def work(seed: int, reporter: Reporter) -> None:
        seeded, run = runs[seed]
        for _, other in runs.values():
            other.lock.handed_on = False  # to this process, not to its workers

        def train(argv: list[str]) -> None:
            with parallel.start(seeded.runtime) as world, contextlib.ExitStack() as locks:
                train_one(seeded, run, locks, world, reporter, sets)

        cli.run(train, help_text, FAILURES)

    with contextlib.ExitStack() as locks:
        for _, run in runs.values():
            locks.enter_context(run.locked())
            run.lock.handed_on = True
        asides = [run.set_aside() for _, run in runs.values()] if config.run.resume == "never" else []
        for aside in filter(None, asides):
            display.note(ASIDE.format(aside))
        display.note(f"{len(runs)} seeds, at most {share.at_once} at once, CPU threads of each: {share.threads}")
        finish_together(config, train_together([*runs], work, share, display), display)


def finish_together(config: TrainConfig, outcome: Outcome, display: Display) -> None:
    """seeds.json and the closing line, or how the process ends instead."""
    if outcome.again:
        sys.exit(SIGNALLED + outcome.again)
    if outcome.unfinished and (outcome.signal or not outcome.failed):
        left = ", ".join(map(str, outcome.unfinished))
        raise preemption.Interrupted(outcome.signal or signal.SIGTERM, f"seeds {left} go on when started again")
    if outcome.failed:
        display.note(outcome.failed_text, error=True)
        code = next(iter(outcome.failed.values()))
        sys.exit(code if code > 0 else SIGNALLED - code)
    summaries = [folder_of(one_seed(config, k)).read_summary() or {} for k in range(config.seeds)]
    write_seeds(config, summaries)
    display.note(seeds_text(summaries))


def write_seeds(config: TrainConfig, summaries: list[dict[str, Any]]) -> None:
    """seeds.json beside the seeds' folders."""
    folder = Path(config.run.dir) / str(one_seed(config, 0).run.name)
    write_json(folder.parent / "seeds.json", summaries)


def main(argv: list[str]) -> None:
    """The command line."""
    config = train_config(argv)
    if config.variant == "help":
        for name, meaning in DISTILLERS.get(config.method).variants.items():
            print(f"{name}: {meaning}")
        return
    side_by_side = config.seeds > 1 and config.runtime.parallel_seeds != 1
    (at_once if side_by_side else one_after_another)(config)


if __name__ == "__main__":
    cli.run(main, help_text, FAILURES)
