"""Which loaders there are, which of them can run here, and how fast those are."""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.builders.run import loader_config, make_loader
from pipeline.config import DataConfig
from pipeline.contracts import InputError, Loader
from pipeline.datasets.image_set import FileSet, ImageSet
from pipeline.engine.distributed.parallel import World
from pipeline.loaders import LOADERS
from pipeline.loaders.config import LoaderConfig
from pipeline.measure.device import wait_for
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.material import Note, write_temporary
from pipeline.measure.rounds import Measure
from pipeline.measure.stream import of_loader, stretch
from pipeline.registry import UnknownName


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A loader in one of its modes.

    keys: of data.*, for this mode; package: what it needs installed; files: the mode is one of reading files; whole:
    holds all pixels in memory; beton: reads a .beton.
    """

    name: str
    loader: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    files: bool = False
    whole: bool = False
    beton: bool = False

    @property
    def words(self) -> str:
        """How a command line asks for it."""
        return " ".join([f"data.loader={self.loader}", *(f"data.{k}={v}" for k, v in self.keys.items())])


KNOWN = (
    Candidate(name="resident", loader="resident", whole=True),
    Candidate(name="torch", loader="torch", keys={"decode": "exact"}),
    Candidate(name="torch-fast", loader="torch", keys={"decode": "fast"}, files=True),
    Candidate(name="dali", loader="dali", package="nvidia.dali", files=True),
    Candidate(name="ffcv", loader="ffcv", package="ffcv", beton=True),
)


def candidates() -> dict[str, Candidate]:
    """By name: the modes above, then every other loader that is registered."""
    others = set(LOADERS.names()) - {known.loader for known in KNOWN}
    return {c.name: c for c in (*KNOWN, *(Candidate(name=name, loader=name) for name in sorted(others)))}


def chosen(names: tuple[str, ...]) -> dict[str, Candidate]:
    """The candidates of these names, all for (). Raises InputError for an unknown one."""
    known = candidates()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"loaders={','.join(names)}: there is no {unknown[0]!r} (known: {', '.join(known)})")
    return {name: known[name] for name in names} or known


def in_use(data: DataConfig) -> Candidate:
    """The mode that data.loader and data.decode ask for."""
    for candidate in candidates().values():
        if candidate.loader == data.loader and all(getattr(data, k) == v for k, v in candidate.keys.items()):
            return candidate
    return Candidate(name=data.loader, loader=data.loader)


def is_installed(package: str) -> bool:
    """Whether a dotted package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def obstacle(candidate: Candidate, images: ImageSet, how: LoaderConfig) -> str | None:
    """Why the candidate cannot be measured on these images here; None when nothing is known against it."""
    if candidate.package and not is_installed(candidate.package):
        return "not installed"
    try:
        LOADERS.canonical(candidate.loader)
    except UnknownName:
        return "no such loader in this version"
    if candidate.files and not isinstance(images, FileSet):
        return f"{images.name} is not a set of files"
    if candidate.whole and not how.windows:
        need, free = len(images) * 3 * (how.image_size + 2 * how.border) ** 2, _free_memory(how.device)
        return f"needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free" if need > free / 2 else None
    return None


def _free_memory(device: torch.device | str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class LoaderMeasures:
    """Builds what can be built. measures: by name; unavailable: reasons of the others, by name."""

    def __init__(self, config: BenchmarkConfig, world: World, images: ImageSet, folder: Path, note: Note) -> None:
        self.config, self.world, self.images, self.folder, self.note = config, world, images, folder, note
        self.measures: dict[str, Measure] = {}
        self.unavailable: dict[str, str] = {}
        for name, candidate in chosen(config.loaders).items():
            self._add(name, candidate)

    def _add(self, name: str, candidate: Candidate) -> None:
        keys = {"min_image_size": None, "loader": candidate.loader, **candidate.keys}  # all images of one size
        data = self.config.data.model_copy(update=keys)
        how = loader_config(data, self.config.runtime, self.world, seed=self.config.seed)
        reason = obstacle(candidate, self.images, how)
        if reason is None:
            try:
                how = replace(how, data=self._with_beton(data)) if candidate.beton else how
                loader = make_loader(self.images, how)
            except (InputError, ImportError) as error:
                reason = str(error)
        if reason is None:
            self.measures[name] = self._measure(loader)
        else:
            self.unavailable[name] = reason

    def _with_beton(self, data: DataConfig) -> DataConfig:
        if data.ffcv.train is not None:
            return data
        path = write_temporary(self.images, self.folder / "train.beton", data.workers, self.note)
        return data.model_copy(update={"ffcv": data.ffcv.model_copy(update={"train": path})})

    def _measure(self, loader: Loader) -> Measure:
        config, wait = self.config, wait_for(self.world.device)
        ahead = batches_ahead(config.data.workers)
        # So that the first round sees a border of epochs, however long they are.
        stream = of_loader(loader, max(0, len(loader) - ahead - config.batches // 2))
        next(stream)  # compiles; and forks worker processes before loaders of threads are built
        return lambda: stretch(stream, steps=config.batches, seconds=config.seconds, ahead=ahead, wait=wait)


def batches_ahead(workers: int) -> int:
    """Batches that may lie ready when a round begins: two for each worker process, and those in flight."""
    return 2 * max(1, workers) + 2
