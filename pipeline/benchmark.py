"""Measure the parts of a training side by side, and say which one holds it back.

python pipeline/benchmark.py what=loader
    every loader against torchvision's ImageFolder + Pillow + DataLoader, on JPEGs made for it
python pipeline/benchmark.py what=loader dataset=imagenet data.root=D data.ffcv.train=F loaders=torch,ffcv plot=F.png
    on your own data; json=F writes the figures for programs
python pipeline/benchmark.py what=step dataset=cifar100 data.root=D pair=resnet56-resnet20 method=kd
    the step on batches that lie ready: student, teacher, a bare loop of both, our training loop, against the device's
    limits and part by part; with teacher.cache=DIR also training from the cache and without a teacher
python pipeline/benchmark.py what=train rows='bare loop,with the loader' steps=5 rounds=40 ...
    two of them in many short turns, for a ratio that noise does not reach; record=F and compare=F: with an earlier day
python pipeline/benchmark.py what=all
    decode (the JPEG library alone), loader, step, train (the whole), and the bottleneck in one sentence
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pipeline import cli
from pipeline.builders.teacher_values import with_own_values
from pipeline.config import describe
from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.engine.distributed import parallel
from pipeline.engine.distributed.parallel import World
from pipeline.measure import chart, decode, loops, regression, report
from pipeline.measure.candidates import LoaderMeasures, candidates, chosen, in_use
from pipeline.measure.contest import BARE, RESEARCH, Contestants, is_variant
from pipeline.measure.device import peak_flops
from pipeline.measure.keys import BenchmarkConfig, benchmark_config
from pipeline.measure.limits import against_limits, copy_bandwidth, idle_share, launch_share, operation_seconds
from pipeline.measure.material import measured_set, with_betons, with_images
from pipeline.measure.rounds import SPEED, Measure, interleaved, summary, with_ratios
from pipeline.measure.variants import WITH_LOADER, backward_share, parts_of_step
from pipeline.measure.verdict import Figures, bottleneck
from pipeline.measure.yardsticks import yardstick

Rows = dict[str, dict[str, Any]]
FOOTER = """
json= is json_file=; model= is student.model=. Without dataset=, or without data.root= where photographs are wanted,
JPEGs are made; without pair= or model=, kd with an untrained pair is measured."""
FASTER = ("amp", "compile")  # runtime keys that shorten a step


class Benchmark:
    """One call of the command line: measures the parts asked for into `report`. folder: temporary."""

    def __init__(self, config: BenchmarkConfig, world: World, folder: Path, note: Callable[[str], None]) -> None:
        self.config, self.world, self.folder, self.note = config, world, folder, note
        self.report = report.frame(config, world, in_use(config.data).name)

    def run(self) -> dict[str, Any]:
        """The parts in turn, then the sentence."""
        parts = self.config.parts
        if parts & {"decode", "loader"}:
            images = measured_set(self.config, self.world)
            self._decode(images)
            if "loader" in parts:
                self._loaders(images)
        if "step" in parts:
            self._step()
        some = "Only some rows were measured: nothing is said of the bottleneck."
        self.report["bottleneck"] = some if self.config.rows else bottleneck(self._figures())
        return self.report

    def _rows(self, measures: dict[str, Measure]) -> Rows:
        return {name: summary(seen) for name, seen in interleaved(measures, self.config.rounds, self.note).items()}

    def _decode(self, images: ImageSet) -> None:
        files, workers = decode.sample_jpegs(images), max(1, self.config.data.workers)
        if not files and "loader" in self.config.parts:
            return  # a set of pixels has no such limit
        seconds = min(decode.SECONDS, self.config.seconds)
        whole = self.config.what != "loader"  # beside loaders, the limit alone is wanted
        modes, counts = (list(decode.DECODERS), sorted({1, workers})) if whole else ([decode.LIMIT], [workers])
        rows = self._rows(decode.decode_measures(files, modes, counts, seconds))
        for name, row in rows.items():
            row["decoder"], _, count = name.partition(" x ")
            row["processes"] = int(count)
        self.report["decode_limit"] = {
            **{k: v for k, v in rows[decode.label(decode.LIMIT, workers)].items() if k != "processes"},
            "workers": workers,
            "files": len(files),
            "mean_bytes": round(sum(map(len, files)) / len(files)),
            "rows": rows,
        }

    def _loaders(self, images: ImageSet) -> None:
        name, base = yardstick(self.config, images, self.world)
        found = LoaderMeasures(self.config, self.world, images, self.folder, self.note)
        rows = self._rows(found.measures | {name: base})
        self.report["yardstick"] = {"name": name, **rows.pop(name)}
        self.report["loaders"] = with_ratios(rows, self.report["yardstick"])
        self.report["unavailable"] = found.unavailable

    def _step(self) -> None:
        config, device = self._ready_config(), self.world.device
        entrants = Contestants(config, self.world, self.folder / "step")
        contest = entrants.gather()
        rows = self._rows(contest.measures)
        rows = with_ratios(rows, rows[BARE])
        self.note("counting and ceilings")
        counts = entrants.count()
        peak, copy = peak_flops(device, loops.working_dtype(config)), copy_bandwidth(device)
        each = operation_seconds(device)
        for name, flops in contest.flops.items():
            row = rows[name]
            row |= against_limits(row, flops, peak, counts.get(name), copy)
            on_gpu = device.type == "cuda"
            row["launch_share"] = idle_share(row, contest.measures[name]) if on_gpu else launch_share(row, each)
        self.report |= {"peak_flops": round(peak), "copy_bandwidth": round(copy), "operation_seconds": each}
        self.report |= {"parameters": contest.parameters, "images_a_step": contest.images}
        self.report["absent"] = contest.absent
        if config.variants and not config.rows:
            self.report["parts"] = parts_of_step(rows, contest.images)
            self.report["backward_share"] = backward_share(rows)
        self._sort(rows)

    def _sort(self, rows: Rows) -> None:
        """Into the tables they belong to."""
        named = {WITH_LOADER: in_use(self.config.data).name, RESEARCH: RESEARCH}
        training = {named[name]: rows.pop(name) for name in named if name in rows}
        self.report["variants"] = {name: rows.pop(name) for name in list(rows) if is_variant(name)} or None
        self.report["step"] = rows
        self.report["train"] = training or None

    def _ready_config(self) -> BenchmarkConfig:
        if not in_use(self.config.data).beton:
            return self.config
        data = with_betons(self.config, self.world, self.folder, self.note)
        self.config = self.config.model_copy(update={"data": data})  # written once
        return self.config

    def _figures(self) -> Figures:
        config, step, on_gpu = self.config, self.report["step"] or {}, self.world.device.type == "cuda"
        training: dict[str, Any] = (
            next(iter((self.report["train"] or {}).values()), {}) if "train" in config.parts else {}
        )
        return Figures(
            loaders={name: row[SPEED] for name, row in self.report["loaders"].items()},
            words={name: candidate.words for name, candidate in candidates().items()},
            used=in_use(config.data).name,
            limit=(self.report["decode_limit"] or {}).get(SPEED),
            workers=max(1, config.data.workers),
            step=step.get("training loop", {}).get(SPEED),
            teacher=step.get("teacher", {}).get(SPEED),
            training=training.get(SPEED),
            data_wait=training.get("data_wait"),
            shared=not on_gpu,
            # On CPUs neither pays: compiled 155 images/s, bf16 16, plain 165 (resnet56 -> resnet20, two cores).
            tunable=on_gpu and all(getattr(config.runtime, name) == "off" for name in FASTER),
        )


def main(argv: list[str]) -> None:
    """The command line."""
    config = with_own_values(benchmark_config(argv))[0]
    chosen(config.loaders)
    report.check_writable(config.json_file, "json")
    report.check_writable(config.plot, "plot")
    report.check_writable(config.record, "record")
    chart.check_plot(config.plot)
    earlier = regression.Book(argv, config.record, config.compare)
    # Where the JSON takes standard output, people read the other one.
    console = report.console_of(stderr=config.json_file == report.STDOUT)
    with parallel.start(config.runtime) as world, tempfile.TemporaryDirectory() as folder:
        if world.ranks > 1:
            raise InputError("a benchmark measures one process: start it without torchrun")
        with console.status("", refresh_per_second=1) as status:
            config = with_images(config, Path(folder), status.update)
            found = Benchmark(config, world, Path(folder), status.update).run()
    report.print_report(found, console)
    earlier.close(found, console)
    if config.plot is not None:
        chart.draw(found, config.plot)
    if config.json_file == report.STDOUT:
        print(json.dumps(found))
    elif config.json_file is not None:
        report.write_report(found, config.json_file)


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", BenchmarkConfig, FOOTER)


if __name__ == "__main__":
    cli.run(main, help_text, {})
