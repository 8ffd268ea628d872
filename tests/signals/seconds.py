"""Signals trainings and writers in every phase, and measures what follows: seconds to the end, exit code, the result.

python tests/signals/seconds.py [phase=evaluation+compiling] [signal=SIGTERM+SIGINT] [folder=DIR]

Each case: the command is brought to the phase, gets one signal, ends; then the same command runs to its end, and what
it leaves is compared with what an undisturbed one left. A table has a line a phase: seconds, code, results equal.
"""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1)]

import phases
import ranks
import stopping
import test_resume
from phases import FOR_EVER
from sets import CACHE, FT, IMAGES, KD, TRAIN, prepare, words

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR2")
PATIENCE = 120.0  # seconds to the end after a signal
GOES_ON = 75


@dataclass(frozen=True, kw_only=True)
class Phase:
    """owner.name is slowed down, by `seconds` a call, from call `number` on; then, `after` seconds later, the signal.

    words: of the command; stopped: which process is halted (SIGSTOP) first: "worker", or a rank's number; to: the rank
    that is signalled, None = all; limit: seconds that the end may take.
    """

    name: str
    owner: str = ""
    call: str = ""
    number: int = 1
    seconds: float = 0.2
    after: float = 0.1
    words: tuple[str, ...] = KD
    count: int = 1
    stopped: str = ""
    to: int | None = None
    limit: float = 10.0
    tool: str = TRAIN


STEP = ("pipeline.engine.train_step:TrainStep", "run")
READ = ("pipeline.datasets.image_set", "read_plain")
WORKER = ("data.loader=torch", "data.workers=1")
COMPILE = ("torch._inductor.graph:GraphLowering", "run")


def at(place: tuple[str, str], number: int = 1, seconds: float = 0.2) -> dict[str, object]:
    return {"owner": place[0], "call": place[1], "number": number, "seconds": seconds}


PHASES: tuple[Phase, ...] = (
    Phase(name="importing", after=0.6),
    Phase(name="loading data (a disk that hangs)", **at(("pipeline.builders.run", "image_set"), 1, FOR_EVER)),
    Phase(
        name="reading images into memory (a disk that hangs)",
        words=(*IMAGES, "data.loader=resident"),
        **at(READ, 9, FOR_EVER),
    ),
    Phase(
        name="compiling modules (runtime.compile=default)",
        words=(*KD, "runtime.compile=default"),
        after=2,
        **at(COMPILE, 1, 0),
    ),
    Phase(
        name="compiling a step (runtime.compile=graph)",
        words=(*KD, "runtime.compile=graph"),
        after=2,
        limit=11,
        **at(COMPILE, 1, 0),
    ),
    Phase(name="first stage (ft)", words=FT, **at(("pipeline.engine.first_stage:FirstStageMethod", "forward"), 10)),
    Phase(
        name="teacher pass (energykd)",
        words=(*KD, "method=energykd"),
        **at(("pipeline.distillers.energykd:EnergyKD", "digest"), 2),
    ),
    Phase(name="training step", **at(STEP, 10)),
    Phase(name="training step, two ranks, one signalled", count=2, to=1, **at(STEP, 10)),
    Phase(name="evaluation", **at(("pipeline.engine.evaluate:Evaluation", "_add"), 6, 0.5)),
    Phase(
        name="evaluation, two ranks, one signalled",
        words=(*KD, "data.eval_batch_size=10"),
        count=2,
        to=1,
        **at(("pipeline.engine.evaluate:Evaluation", "_add"), 2, 0.5),
    ),
    Phase(name="checkpoint write of 3 s", **at(("pipeline.run_folder.checkpoint_file", "seal"), 4, 3)),
    Phase(name="cache write", tool=CACHE, words=(), **at(("data_prep.cache_parts:Work", "write"), 3)),
    Phase(name="cache write, its disk hangs", tool=CACHE, words=(), **at(("os", "fsync"), 4, FOR_EVER)),
    Phase(name="read that hangs, in a worker", words=(*IMAGES, *WORKER), **at(READ, 22, FOR_EVER)),
    Phase(name="halted worker", words=(*KD, *WORKER), stopped="worker", after=1, **at(STEP, 10)),
    Phase(name="halted rank 0 of two", count=2, stopped="0", to=1, after=1, limit=12, **at(STEP, 10)),
    Phase(name="halted rank 1 of two", count=2, stopped="1", to=0, after=1, limit=12, **at(STEP, 10)),
)


@dataclass
class Found:
    """Of one case. wrong: why the result is not that of the undisturbed command, or what else is a fault."""

    seconds: float
    codes: list[int | None]
    said: str
    wrong: str = ""


def signalled(pid: int, number: int) -> None:
    """A process that has ended already shows by its code."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def halt(phase: Phase, pids: list[int]) -> list[int]:
    """Stops a rank, or the workers of the first one; returns whom."""
    if phase.stopped == "worker":
        path = Path(f"/proc/{pids[0]}/task/{pids[0]}/children")
        victims = [int(pid) for pid in path.read_text().split()]
    else:
        victims = [pids[int(phase.stopped)]] if phase.stopped else []
    for pid in victims:
        os.kill(pid, signal.SIGSTOP)
    return victims


def interrupt(phase: Phase, argv: list[str], number: int, log: Path) -> Found:
    """Brings the command into the phase and signals it."""
    if not phase.owner:
        return interrupt_script(phase, argv, number, log)
    place = phases.Place(phase.owner, phase.call, phase.number, phase.seconds)
    job = (phase.tool, argv, place, log.with_suffix(".compiled"))
    processes = ranks.start(phases.run, job, phase.count, log)
    for rank in range(phase.count):
        stopping.wait_for(Path(f"{log}.{rank}"), phases.HERE, 60)
    pids = [process.pid or 0 for process in processes]
    halted = halt(phase, pids)
    time.sleep(phase.after)
    started = time.monotonic()
    for pid in pids if phase.to is None else [pids[phase.to]]:
        signalled(pid, number)
    waited = [process for process in processes if process.pid not in halted]
    for process in waited:
        process.join(PATIENCE)
    seconds = time.monotonic() - started
    codes = [process.exitcode for process in waited]
    for pid in halted:
        signalled(pid, signal.SIGKILL)
    ranks.finish(processes, 5)
    said = "".join(Path(f"{log}.{rank}").read_text() for rank in range(phase.count))
    return Found(seconds, codes, said)


def interrupt_script(phase: Phase, argv: list[str], number: int, log: Path) -> Found:
    """The real command line, while it imports."""
    with log.open("wb") as handle:
        command = [sys.executable, str(ROOT / (phase.tool.replace(".", "/") + ".py")), *argv]
        process = subprocess.Popen(command, stdout=handle, stderr=subprocess.STDOUT)
        time.sleep(phase.after)
        started = time.monotonic()
        process.send_signal(number)
        code = process.wait(PATIENCE)
    return Found(time.monotonic() - started, [code], log.read_text())


def whole(phase: Phase, argv: list[str], log: Path) -> None:
    """The command to its end, undisturbed."""
    codes = ranks.finish(
        ranks.start(phases.run_plain, (phase.tool, argv, log.with_name("compiled")), phase.count, log), 300
    )
    said = "".join(Path(f"{log}.{rank}").read_text() for rank in range(phase.count))
    assert codes == [0] * phase.count, f"{phase.name}: {codes}\n{said[-2000:]}"


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files, by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def difference(phase: Phase, one: Path, other: Path) -> str:
    """What tells the two results apart; '' for nothing."""
    if phase.tool == CACHE:
        a, b = contents(one), contents(other)
        unequal = [name for name in {*a, *b} if a.get(name) != b.get(name)]
        return f"other files: {unequal[:3]}" if unequal else ""
    try:
        test_resume.assert_same_run(one, other)
        left = [str(path) for path in other.rglob(".*") if path.name != ".lock"]
        assert not left, f"left behind: {left}"
    except AssertionError as error:
        return " ".join(str(error).split())[:300]
    return ""


def judge(phase: Phase, found: Found) -> str:
    """What is a fault of the end itself."""
    if any(code != GOES_ON for code in found.codes):
        return f"codes {found.codes}: {found.said[-600:]}"
    if found.seconds > phase.limit:
        return f"{found.seconds:.1f} s: {found.said[-600:]}"
    return f"a traceback: {found.said[-600:]}" if "Traceback" in found.said else ""


def measure(phase: Phase, number: int, data: Path, folder: Path, known: dict[object, Path]) -> Found:
    """One case. known: undisturbed results, by what was run."""
    key = (phase.tool, phase.words, phase.count)
    if key not in known:
        known[key] = folder / f"whole{len(known)}"
        whole(phase, words(phase.tool, data, known[key], phase.words), folder / f"whole{len(known)}.log")
    out = folder / f"{PHASES.index(phase)}-{number}"
    argv = words(phase.tool, data, out, phase.words)
    found = interrupt(phase, argv, number, folder / f"{out.name}.log")
    found.wrong = judge(phase, found)
    if not found.wrong:
        whole(phase, argv, folder / f"{out.name}.again")
        found.wrong = difference(phase, known[key], out)
    return found


def table(results: dict[str, dict[str, Found]]) -> str:
    """A line a phase."""
    rows = ["| phase | SIGTERM | SIGINT | SIGUSR2 | code | results equal |", "|---|---|---|---|---|---|"]
    for name, by_signal in results.items():
        times = [f"{by_signal[s].seconds:.1f}" if s in by_signal else "-" for s in SIGNALS]
        codes = sorted({str(code) for found in by_signal.values() for code in found.codes})
        equal = sum(not found.wrong for found in by_signal.values())
        rows.append(f"| {name} | {' | '.join(times)} | {', '.join(codes)} | {equal} of {len(by_signal)} |")
    return "\n".join(rows)


def main(argv: list[str], say: Callable[[str], object] = print) -> int:
    """The command line; returns 1 where something is a fault."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what runs in the background ignore it
    given = dict(word.split("=", 1) for word in argv)
    folder = Path(given.get("folder") or tempfile.mkdtemp())
    data, known = prepare(folder / "data"), {}
    chosen, numbers = given.get("phase", "").split("+"), given.get("signal", "+".join(SIGNALS)).split("+")
    results: dict[str, dict[str, Found]] = {}
    for phase in PHASES:
        if not any(part in phase.name for part in chosen):
            continue
        for name in numbers:
            found = measure(phase, signal.Signals[name], data, folder, known)
            results.setdefault(phase.name, {})[name] = found
            last = found.said.splitlines()[-1:]
            say(f"{phase.name}, {name}: {found.seconds:.2f} s, codes {found.codes} {last} {found.wrong}")
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch')}"
    say(f"\n{machine}\n\n{table(results)}")
    return int(any(found.wrong for by_signal in results.values() for found in by_signal.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
