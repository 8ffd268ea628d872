"""A cache that the device wrote in chunks of 256, and a training that compares it in batches of 64 (teacher.verify)."""

from data_prep import cache_teacher
from pipeline.measure.loops import advance
from tools.gpu.probes.bench import Bench
from tools.gpu.probes.trainings import pair_words, trainer

PRECISIONS = {"by default": [], "float32": ["runtime.tf32=off"], "bf16": ["runtime.amp=bf16"]}


def run(bench: Bench) -> None:
    rows, steps = (128, 2) if bench.small else (640, 12)
    for name, words in PRECISIONS.items():
        with bench.tried(f"a cached training, {name}"):
            folder = write(bench, pair_words(bench, rows, *words), f"{bench.stage}-{name.replace(' ', '_')}")
            ours = trainer(bench, pair_words(bench, rows, *words, *from_cache(folder), "teacher.verify=all"))
            advance(ours, steps)
            bench.judge(f"a cached training, {name}", f"{steps} batches compared with the live teacher", True)


def write(bench: Bench, words: list[str], name: str, views: int = 1) -> str:
    """The folder of a new cache of `views` views under these words."""
    folder = bench.scratch / name
    own = [f"cache.out={folder}", f"cache.views={views}", f"runtime.device={bench.device.type}"]
    cache_teacher.main([*words, *own])
    return str(folder)


def from_cache(folder: str) -> list[str]:
    """Words of a training from it."""
    return ["teacher.source=cached", f"teacher.cache={folder}"]
