"""The rows of `speed` whose whole step is compiled before it is captured: minutes of compiling, hence a stage apart."""

from tools.gpu.probes.bench import Bench
from tools.gpu.probes.speed import row, rows_of
from tools.gpu.probes.trainings import alone_words, configured, pair_words

WORDS = ("runtime.amp=bf16", "runtime.compile=graph_fused")


def run(bench: Bench) -> None:
    rows = rows_of(bench)
    for name, words in (("vanilla", alone_words(bench, rows, *WORDS)), ("live", pair_words(bench, rows, *WORDS))):
        what = f"{name}, graph_fused, bf16"
        if bench.small:  # compiling takes minutes; `fused` takes such steps, `speed` such rows
            bench.say(what, configured(bench, words).runtime.compile)
        else:
            row(bench, what, words, profiled=True)
