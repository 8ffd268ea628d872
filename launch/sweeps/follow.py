"""Staying with a sweep: a line for each run that ends, a clean end on Ctrl-C, tables and pictures when all is over."""

import contextlib
import importlib.util
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from launch.jobs import slurm_state as watch
from launch.jobs.handle import TAIL, JobHandle, states_of
from launch.jobs.local_queue import QUEUE
from launch.jobs.run_spec import RunSpec
from launch.jobs.submission_record import SubmissionRow
from launch.sweeps.text import ended_line
from launch.tables.formats import FORMATS, markdown
from launch.tables.report import make_report
from pipeline.contracts import InputError
from pipeline.pictures.keys import visualize_config
from pipeline.pictures.report import write_pictures
from pipeline.utils.atomic import write_text

STOP_S = 120.0  # to write a checkpoint
TAILS = 5  # logs that are shown
Handle = JobHandle | SubmissionRow


class Stopped(Exception):
    """The sweep was asked to end."""


class Failed(Exception):
    """Runs ended without a result."""


@dataclass
class Following:
    """Runs that have not ended, and those that have. patience_s: how long a silent Slurm is waited for."""

    open: list[tuple[RunSpec, Handle]]
    patience_s: float
    poll_s: float = 1.0
    ended: list[tuple[RunSpec, Handle, str]] = field(default_factory=list)

    def watch(self) -> None:
        """Returns when all have ended; one line for each. Raises Failed when Slurm has not answered for too long."""
        total, begin = len(self.open), time.monotonic()
        answered = begin
        while self.open:
            with unheard():
                QUEUE.pump()
                found = states_of([handle for _, handle in self.open])
            now = time.monotonic()
            answered = now if "unknown" not in found else answered
            if now - answered > self.patience_s:
                raise Failed(f"Slurm has not answered for {self.patience_s / 60:.3g} min; the jobs may still run")
            rows = [(*row, state) for row, state in zip(self.open, found, strict=True)]
            self.open = [(run, handle) for run, handle, state in rows if state in watch.OVER]
            for row in rows:
                if row[2] not in watch.OVER:
                    self.ended.append(row)
                    print(ended_line(row[0], row[2], len(self.ended), total, now - begin), flush=True)
            if self.open:
                time.sleep(self.poll_s)

    def failures(self) -> str:
        """What failed, why, and the end of the first logs; '' when nothing did."""
        lines, shown = [], 0
        for run, handle, state in self.ended:
            if state == "done":
                continue
            lines.append(f"{run.name} {state}: {handle.reason()}")
            if state != "cancelled" and shown < TAILS:
                shown += 1
                lines.append(watch.tail(handle.log, TAIL))
        return "\n".join(lines)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started inside never hear the terminal's Ctrl-C, which submitit's answer by a kill after a
    second; `stop` asks them to write a checkpoint instead."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped inside, once local jobs have ended with a checkpoint; other errors end them
    too."""

    def ask(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Stopped:
        local = stop()
        left = f"{local} local runs wrote their checkpoints" if local else "what Slurm has goes on by itself"
        raise Stopped(f"{left}; the same command goes on") from None
    except BaseException:
        stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop() -> int:
    """Asks the local jobs of this process to end and waits for them; what waited for its turn is not started. Returns
    how many ran."""
    for waiting in QUEUE.waiting:
        waiting.give_up("the sweep was stopped before its turn")
    QUEUE.waiting.clear()
    running = [sent.job for sent in QUEUE.active if not sent.job.done()]
    if running:
        print(f"\nasking {len(running)} local jobs for a checkpoint", flush=True)
    for job in running:
        job._process.send_signal(signal.SIGTERM)  # submitit's controller hands it on to all ranks
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline and not all(job.done() for job in running):
        time.sleep(0.1)
    return len(running)


def report(folder: Path, title: str, pictures: Sequence[str] | None, images: int) -> None:
    """Writes table.md, table.html and report.html into the sweep's folder, and prints the table. Raises InputError
    where there is no run at all."""
    made = make_report([folder], title=title)
    text = markdown(made)
    write_text(folder / "table.md", text)
    write_text(folder / "table.html", FORMATS["html"](made))
    print(f"\n{text}\ntable: {folder / 'table.md'}, {folder / 'table.html'}", flush=True)
    if not pictures:
        return
    if importlib.util.find_spec("matplotlib") is None:
        print("no report.html: pictures need matplotlib (pip install 'stillhouse[plot]')", flush=True)
        return
    words = [f"runs={folder}", f"out={folder / 'report.html'}", f"title={title}"]
    try:
        write_pictures(visualize_config([*words, f"what={','.join(pictures)}", f"images={images}"]))
    except InputError as error:
        print(f"no report.html: {error.args[0]}", flush=True)
