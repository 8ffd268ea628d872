"""A training from Python: the configuration, the parts it is made of, the training loop, a loop of one's own, and
results read back from run folders.

python examples/python_api.py OUT [key=value ...]      # keys as for pipeline/train.py

OUT/teacher and OUT/student are ordinary run folders: started again, a run goes on where it was; pipeline/evaluate.py,
launch/table.py and teacher.checkpoint= read them.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path, from a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from pipeline import cli

# isort: split
import torch

from pipeline.builders.names import train_config
from pipeline.builders.run import build
from pipeline.config import TrainConfig
from pipeline.engine.distributed import parallel
from pipeline.engine.reporting.reporter import Reporter
from pipeline.engine.trainer import Trainer
from pipeline.run_folder.folder import RunDir
from pipeline.run_folder.groups import by_settings, read_runs
from pipeline.run_folder.spread import mean_std, spread_text

TEACHER = ("dataset=synthetic", "model=resnet14", "optim.epochs=9")
STUDENT = ("dataset=synthetic", "teacher.model=resnet14", "model=resnet8", "method=kd", "optim.epochs=4")


def trained(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Trains in `folder`, or goes on there, and returns the run's summary."""
    with parallel.start(config.runtime) as world:  # the device; under torchrun the ranks, too
        parts, _ = build(config, world)  # student, teacher, method, loaders, checked against one another
        run, reporter = RunDir(folder), Reporter(leader=world.leader)
        with run.locked():  # against a second process
            run.claim(config, parts.description)  # refuses a folder that holds another run
            torch.manual_seed(config.seed)
            return Trainer(parts, config, world, run, reporter).fit()


def by_hand(config: TrainConfig, steps: int) -> None:
    """The parts without the engine: a plain loop over the same batches, for whoever wants to look inside one."""
    with parallel.start(config.runtime) as world:
        parts, _ = build(config, world)
        student, teacher, method = parts.student.train(), parts.teacher, parts.distiller
        optimizer = torch.optim.SGD([*student.parameters(), *method.parameters()], config.optim.lr)
        parts.train.set_epoch(0)
        for step, batch in zip(range(steps), parts.train, strict=False):
            progress = torch.tensor(step / len(parts.train), device=world.device)  # epochs
            output = student(batch.image_BCHW, features=method.student_features)
            terms = method(output, teacher(batch), batch, progress)
            optimizer.zero_grad()
            torch.stack([*terms.values()]).sum().backward()
            optimizer.step()
            figures = "  ".join(f"{name} {term.item():.4f}" for name, term in terms.items())
            print(f"step {step + 1}: {len(batch.label_B)} images, first {batch.index_B[:4].tolist()}, {figures}")


def results(*folders: Path) -> None:
    """What lies in run folders, at or below these: mean and deviation over the seeds of each cell, as in the table."""
    for group in by_settings(read_runs(map(str, folders))):
        spread = mean_std(run.top1 for run in group.done)
        print(f"{group.runs[0].config.method} {group.runs[0].pair}: top-1 {spread_text(spread)}, seeds {group.seeds}")


def main(argv: list[str]) -> None:
    """The command line."""
    out, words = Path(argv[0] if argv else "runs/python_api"), argv[1:]
    teacher = trained(train_config([*TEACHER, *words]), out / "teacher")
    config = train_config([*STUDENT, f"teacher.checkpoint={out / 'teacher'}", *words])
    student = trained(config, out / "student")
    print(f"teacher {teacher['top1_last']:.2f} %, distilled student {student['top1_last']:.2f} %")
    results(out)
    by_hand(config, steps=3)


if __name__ == "__main__":
    cli.run(main, lambda: __doc__ or "", {})
