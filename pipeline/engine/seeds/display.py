"""What several seeds print, on one screen or in one log: whole lines with the seed before them, one bar for each."""

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


class Display:
    """The parent's output. bars: whether there is a terminal to draw them on."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.bars = self.console.is_terminal
        # No thread draws: children are forked while the bars stand.
        self._progress = Progress(
            TextColumn("seed {task.fields[seed]} epoch {task.fields[epoch]}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            auto_refresh=False,
            transient=True,
        )
        self._tasks: dict[int, TaskID] = {}

    def line(self, seed: int, stream: str, text: str) -> None:
        """One line of a seed; on a terminal above the bars, whichever stream it was meant for."""
        self._print(f"seed {seed} | {text}", sys.stderr if stream == "stderr" else sys.stdout)

    def note(self, text: str, *, error: bool = False) -> None:
        """A line about all seeds."""
        self._print(text, sys.stderr if error else sys.stdout)

    def _print(self, text: str, stream: TextIO) -> None:
        if self._tasks:
            self.console.print(text, markup=False)
        else:
            print(text, file=stream, flush=True)

    def bar(self, seed: int, epoch: str, done: int, steps: int, figures: str) -> None:
        """Where a seed stands in its epoch."""
        if not self._tasks:
            self._progress.start()
        if seed not in self._tasks:
            self._tasks[seed] = self._progress.add_task("", seed=seed, epoch=epoch, figures=figures)
        self._progress.update(self._tasks[seed], completed=done, total=steps, epoch=epoch, figures=figures)
        self._progress.refresh()

    def end(self, seed: int) -> None:
        """Takes a seed's bar away."""
        task = self._tasks.pop(seed, None)
        if task is None:
            return
        self._progress.remove_task(task)
        self._progress.refresh()
        if not self._tasks:
            self._progress.stop()
