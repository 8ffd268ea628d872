"""What a person sees: a progress bar on a terminal, plain lines elsewhere."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from pipeline.run_folder.summary import speed_text


def clock_text(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def figures_text(figures: dict[str, Any]) -> str:
    """Loss, terms, top-1, images/s, share of waiting, time left, in one line."""
    terms = " ".join(f"{name} {value:.4f}" for name, value in figures["terms"].items())
    return (
        f"loss {figures['train_loss']:.4f} ({terms}) top1 {figures['train_top1']:.2f} "
        f"{speed_text(figures['images_per_second'])} wait {100 * figures['data_wait']:.0f}%"
    )


class Reporter:
    """Prints on the leader; silent on other ranks."""

    def __init__(self, *, leader: bool) -> None:
        self.leader = leader
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True, quiet=not leader)
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def note(self, text: str) -> None:
        """A line of plain text."""
        self.console.print(text, markup=False)

    def start_epoch(self, epoch: int, epochs: int, first: int, steps: int) -> None:
        """epoch from 1; `first` of `steps` are done."""
        if not (self.leader and self.console.is_terminal):
            return
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=steps, completed=first, epoch=f"{epoch}/{epochs}", figures="")
        self._bar.start()

    def step_done(self) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def figures(self, epoch: int, epochs: int, step: int, steps: int, figures: dict[str, Any], left: float) -> None:
        """Meters inside an epoch; left: seconds to the end of the run."""
        text = f"{figures_text(figures)} left {clock_text(left)}"
        if self._bar is not None:
            self._bar.update(self._task, figures=text)
        else:
            self.note(f"epoch {epoch}/{epochs} step {step}/{steps} {text}")

    def end_epoch(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def record(self, record: dict[str, Any], epochs: int) -> None:
        """The line of a finished epoch."""
        test = "not evaluated"
        if record["test_top1"] is not None:
            test = f"test loss {record['test_loss']:.4f} top1 {record['test_top1']:.2f} top5 {record['test_top5']:.2f}"
        if record.get("val_top1") is not None:
            test += f" val top1 {record['val_top1']:.2f}"
        self.note(
            f"epoch {record['epoch']}/{epochs} lr {record['lr']:g} {figures_text(record)} | {test} | "
            f"{clock_text(record['seconds'])}"
        )
