"""Write the teacher's outputs ahead of time.

torchrun --nproc-per-node 2 data_prep/cache_teacher.py dataset=cifar100 data.root=D pair=resnet56-resnet20 \\
    teacher.checkpoint=F cache.out=DIR cache.views=4

Views, pixels and teacher are those of a training with the same keys: teacher.source=cached teacher.cache=DIR then gives
its numbers. method= says which further views are stored (mlkd, r2kd, funmatch ...). A writer that was stopped goes on
when it is started again; several may write into one folder at once.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen(signals.GOES_ON, signals.EXIT_CODE)

from pipeline import cli  # before torch: see pipeline/__init__.py

# isort: split
import torch
import yaml
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from data_prep.cache_arrays import telling
from data_prep.cache_keys import CacheTeacherConfig, read_config
from data_prep.cache_parts import Part, Work, packable
from data_prep.cache_shares import settle, shares
from pipeline.builders.cache_key import identity_of
from pipeline.builders.method import build_distiller, declared_by, make_setting
from pipeline.builders.run import build_student, image_set, loader_config, make_loader, split_off
from pipeline.builders.teacher import UNTRAINED, Ask, build_live
from pipeline.builders.teacher_values import with_own_values
from pipeline.config import TrainConfig, describe
from pipeline.contracts import Batch, InputError, Loader, Signal, Stream, TeacherSource
from pipeline.datasets import ImageSet
from pipeline.datasets.image_set import check_classes
from pipeline.engine.distributed import parallel
from pipeline.engine.distributed.parallel import World
from pipeline.engine.reporting.reporter import clock_text
from pipeline.loaders.config import STEP_KINDS
from pipeline.teachers.cache_format import CHUNK, Layout
from pipeline.utils.atomic import write_text

MADE = "made.yaml"
PART = 64  # batches that are written at once: 16,384 samples
WAIT = 0.2  # seconds between looks at what other writers have done


class Source(NamedTuple):
    """What is run for a cache: one rank's training loader, and the teacher. tf32: where it runs in it (off ...)."""

    teacher: TeacherSource
    loader: Loader
    streams: dict[str, Stream]
    images: ImageSet
    tf32: str

    @property
    def steps(self) -> int:
        """Batches of a view."""
        return len(self.loader)


def open_source(config: TrainConfig, world: World) -> Source:
    """The loader and the live teacher of a training with these keys. Raises InputError for what no cache can hold.

    Every writer has the whole set in batches that do not depend on how many writers there are: what shares a batch
    with a sample is always the same.
    """
    if declared_by(config, "teacher_in_train_mode"):
        raise InputError(f"method {config.method}, variant {config.variant}: its teacher's outputs depend on the run")
    images = image_set(config.dataset, config.data, "train", world)
    check_classes(images)
    needs = Signal.LOGITS
    teacher = build_live(config, Ask(needs, images.num_classes, world, images.class_names), config.teacher.source)
    assert teacher.network is not None
    if getattr(teacher.network, UNTRAINED, None):
        raise InputError(f"a cache holds logits, but {getattr(teacher.network, UNTRAINED)}")
    student = build_student(config, images.num_classes) if config.student.model else teacher.network
    streams = dict(build_distiller(config, make_setting(config, student, teacher, images)).shown_streams)
    mixed = any(stream.kind in STEP_KINDS for stream in streams.values())
    kept = split_off(len(images), config.data.val_split, config.data.seed)[1]
    data = config.data
    if not mixed:  # then batches are of any size, in any order
        data = data.model_copy(update={"batch_size": CHUNK, "order": "sequential"})
    alone = {"rank": 0, "ranks": 1, "index_N": kept, "streams": streams}
    how = loader_config(data, config.runtime, world, seed=config.seed, **alone)
    return Source(teacher, make_loader(images, how), streams, images, world.tf32)


def outputs(source: Source, batch: Batch, pooled: bool) -> Iterator[tuple[tuple[str, str], Tensor]]:
    """((stream, kind), float32 rows) of the ordinary view and of the further ones."""
    for name in ("", *source.streams):
        found = source.teacher(batch.showing(name) if name else batch)
        assert found is not None
        yield (name, "logits"), found.logits_BK
        if pooled:
            yield (name, "pooled"), found.pooled_BD


class Steps:
    """Batches of (view, step); one iterator goes on as long as the steps asked for follow one another."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.at = (-1, -1)
        self.batches: Iterator[Batch] = iter(())

    def __call__(self, part: Part) -> Iterator[Batch]:
        for step in range(part.first, part.stop):
            if self.at != (part.view, step):
                self.loader.set_epoch(part.view, step)
                self.batches = iter(self.loader)
            yield next(self.batches)
            self.at = (part.view, step + 1)


def compute(work: Work, source: Source, part: Part, steps: Steps, pooled: bool) -> int:
    """Runs the teacher over a part and writes it; returns its number of samples."""
    rows: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    index: list[Tensor] = []
    for batch in steps(part):
        assert batch.info.host_index_B is not None
        index.append(batch.info.host_index_B)
        for name, value in outputs(source, batch, pooled):
            rows[name].append(value)
    index_M = torch.cat(index)
    work.write(part, index_M, packable(rows))
    return len(index_M)


def identity(config: TrainConfig, source: Source) -> dict[str, object]:
    """What the cache is of."""
    return identity_of(
        config,
        source=config.teacher.source,
        network=source.teacher.network,
        images=source.images,
        loader=source.loader,
        streams=source.streams,
        tf32=source.tf32,
    )


def make_work(config: CacheTeacherConfig, source: Source) -> Work:
    """What is to be written, and of what."""
    cache, network = config.cache, source.teacher.network
    assert network is not None
    classifier = network.classifier
    assert isinstance(classifier, nn.Linear)
    layout = Layout(
        samples=len(source.images),
        classes=source.images.num_classes,
        pooled=classifier.in_features if cache.pooled else 0,
        views=cache.views or config.optim.epochs,
        dtype=cache.dtype,
        k=cache.k,
        streams=tuple(sorted(source.streams)),
    )
    layout.files(0)  # refuses a number of classes to keep that makes no sense
    what = identity(config, source)
    return Work(folder=Path(cache.out), layout=layout, identity=what, steps=source.steps, steps_per_part=PART)


class Bar:
    """Parts that are done, by whichever writer, as a bar on the leader's terminal, or a line every tenth."""

    def __init__(self, work: Work, images: int, leader: bool) -> None:
        self.work, self.leader = work, leader
        self.total = work.layout.views * len(work.parts(0))
        self.images_per_part = images / len(work.parts(0))
        self.before, self.started = work.done(), time.perf_counter()
        self.said = self.before * 10 // self.total
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, disable=not (leader and sys.stdout.isatty()))
        self.task = self.progress.add_task("teacher", total=self.total, completed=self.before, rate="")

    def look(self) -> None:
        """Shows how far all writers are."""
        if not self.leader:
            return
        done, seconds = self.work.done(), time.perf_counter() - self.started
        rate = (done - self.before) * self.images_per_part / seconds
        text = f"{rate:.0f} images/s"
        self.progress.update(self.task, completed=done, rate=text)
        if self.progress.disable and done * 10 // self.total > self.said:
            self.said = done * 10 // self.total
            left = (self.total - done) * self.images_per_part / rate if rate else 0
            print(f"{100 * done // self.total} % of {self.total} parts, {text}, left {clock_text(left)}", flush=True)


def write_cache(config: CacheTeacherConfig, world: World) -> Work:
    """Writes this rank's share; returns when the whole cache is there. Raises InputError."""
    source = open_source(config, world)
    work = make_work(config, source)
    images, total = source.loader.num_samples, work.layout.bytes_per_view() * work.layout.views
    if world.leader:
        print(f"{work.layout.views} views of {images:,} images: {total / 1e6:,.1f} MB in {work.folder}", flush=True)
    if not world.on_leader(work.start):
        if world.leader:
            print("already complete")
        return work
    steps, bar = Steps(source.loader), Bar(work, images, world.leader)
    with bar.progress:
        while not settle(work, lambda: time.sleep(WAIT)):
            for part in shares(work, world.rank, world.ranks):
                compute(work, source, part, steps, config.cache.pooled)
                bar.look()
    world.gather(None)
    world.on_leader(lambda: finish(work, config))
    return work


def finish(work: Work, config: CacheTeacherConfig) -> None:
    """Writes how the cache was made (for verify_cache.py) and, last, the manifest that makes it one."""
    how = config.model_dump(mode="json", exclude={"run", "log", "seeds", "select_on"})
    how["cache"].pop("out")
    with telling(work.folder):
        write_text(work.folder / MADE, yaml.safe_dump(how, sort_keys=True))
    work.finish()


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", CacheTeacherConfig)


def main(argv: list[str]) -> None:
    """The command line."""
    config = read_config(argv)
    config, lines = with_own_values(config)
    with parallel.start(config.runtime) as world:
        if world.leader:
            print(*lines, sep="\n", end="\n" if lines else "", flush=True)
        write_cache(config, world)


if __name__ == "__main__":
    cli.run(main, help_text, {})
