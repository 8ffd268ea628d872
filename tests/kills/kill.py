"""Kills commands at random moments, gives the same command again until it is done, and compares the result.

python tests/kills/kill.py cases=100 seed=7 [area=crd+energykd] [per=3] [folder=DIR]

cases: kills in all, taken in turn from the areas; a result gets `per` of them. A table says of each area how many kills
there were, how many met a living process, and how many results equal the unbroken one.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1)]

import areas
import ranks

SHORTEST = 0.3  # of a command's length: what is left of it after some kills is at least so long
PATIENCE = 300.0  # seconds
OTHERS = 10.0  # that ranks have which are left over, before they are ended as torchrun does


@dataclass
class Tally:
    """Of one area. unequal: what was wrong with which result."""

    kills: int = 0
    alive: int = 0
    results: int = 0
    unequal: tuple[str, ...] = ()


def children_of(pid: int) -> list[int]:
    """Living descendants of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def run_whole(area: areas.Area, root: Path, out: Path, log: Path) -> float:
    """The command to its end; seconds."""
    started = time.monotonic()
    codes = ranks.finish(ranks.start(area.job, (area.words(root, out),), area.count, log), PATIENCE)
    said = "".join(Path(f"{log}.{rank}").read_text() for rank in range(area.count))
    assert codes == [0] * area.count, f"{area.name}: {codes}\n{said[-2000:]}"
    return time.monotonic() - started


def kill_once(area: areas.Area, root: Path, out: Path, log: Path, delay: float, rng: random.Random) -> bool:
    """Starts the command and kills all of its processes, or one, after `delay` seconds. Whether one was alive."""
    processes = ranks.start(area.job, (area.words(root, out),), area.count, log)
    time.sleep(delay)
    alive = [process for process in processes if process.is_alive() and process.pid]
    below = [pid for process in alive for pid in children_of(int(process.pid or 0))]
    everyone = [int(process.pid or 0) for process in alive] + below
    victims = [rng.choice(everyone)] if everyone and rng.random() < 0.5 else everyone
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    ranks.finish(processes, PATIENCE if area.count == 1 else OTHERS)
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in below) and time.monotonic() < deadline:
        time.sleep(0.05)  # children that outlive their parent write a checkpoint
    return bool(victims)


def one_result(
    area: areas.Area, root: Path, whole: Path, length: float, rng: random.Random, tally: Tally, per: int
) -> None:
    """Kills, then the end, then the comparison."""
    out = whole.with_name("broken")
    shutil.rmtree(out, ignore_errors=True)
    if area.job is areas.index:
        for path in areas.written(area, root, out).glob(".*"):
            path.unlink()
    else:
        out.mkdir()
    left = length
    for number in range(per):
        delay = rng.uniform(0, left)
        tally.alive += kill_once(area, root, out, whole.with_name(f"kill{number}"), delay, rng)
        tally.kills += 1
        left = max(SHORTEST * length, left - delay)
    run_whole(area, root, out, whole.with_name("last"))
    tally.results += 1
    wrong = areas.difference(area, whole, areas.written(area, root, out))
    if wrong:
        tally.unequal += (wrong,)


def kill(cases: int, seed: int, folder: Path, chosen: str = "", per: int = 3) -> dict[str, Tally]:
    """`cases` kills, rounded up to whole results. folder: empty, for everything that is written. chosen: areas; all."""
    rng = random.Random(seed)
    root = areas.prepare(folder / "data")
    tallies: dict[str, Tally] = {}
    lengths: dict[str, float] = {}
    todo = [area for area in areas.AREAS if not chosen or area.name in chosen.split("+")]
    for number in range(-(-cases // per)):
        area = todo[number % len(todo)]
        tally = tallies.setdefault(area.name, Tally())
        place = folder / area.name.replace(" ", "-").replace(",", "")
        if area.name not in lengths:
            (place / "whole").mkdir(parents=True)
            run_whole(area, root, place / "whole", place / "first")  # imports; measured is the next one
            shutil.rmtree(place / "whole")
            (place / "whole").mkdir()
            lengths[area.name] = run_whole(area, root, place / "whole", place / "first")
            if area.job is areas.index:
                for path in (root / "tree").glob(".*"):
                    shutil.copy(path, place / "whole")
                    for other in (root / "tree").glob("[!.]*"):
                        shutil.copytree(other, place / "whole" / other.name)
        one_result(area, root, place / "whole", lengths[area.name], rng, tally, per)
        print(f"{area.name}: {tally}", flush=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    """A line an area."""
    rows = ["| area | kills | met alive | results | equal |", "|---|---|---|---|---|"]
    for name, t in tallies.items():
        rows.append(f"| {name} | {t.kills} | {t.alive} | {t.results} | {t.results - len(t.unequal)} |")
    kills, alive = (sum(getattr(t, key) for t in tallies.values()) for key in ("kills", "alive"))
    results, wrong = sum(t.results for t in tallies.values()), sum(len(t.unequal) for t in tallies.values())
    return "\n".join([*rows, f"| all | {kills} | {alive} | {results} | {results - wrong} |"])


def main(words: list[str]) -> int:
    """The command line."""
    given = dict(word.split("=", 1) for word in words)
    folder = Path(given.get("folder") or tempfile.mkdtemp())
    cases, seed, per = (int(given.get(key, usual)) for key, usual in (("cases", 100), ("seed", 1), ("per", 3)))
    tallies = kill(cases, seed, folder, given.get("area", ""), per)
    print(table(tallies))
    for name, tally in tallies.items():
        for wrong in tally.unequal:
            print(f"{name}: {wrong}")
    return int(any(tally.unequal for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
