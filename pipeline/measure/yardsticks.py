"""What everybody uses: torchvision's data sets, transforms on Pillow images, torch's DataLoader."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pipeline.config import DataConfig
from pipeline.contracts import InputError
from pipeline.datasets.image_set import FileSet, ImageSet
from pipeline.engine.distributed.parallel import World
from pipeline.loaders.worker_deaths import batches_of
from pipeline.measure.candidates import batches_ahead
from pipeline.measure.device import wait_for
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.rounds import Measure, Round
from pipeline.measure.stream import of_batches, stretch
from pipeline.process.machine_errors import worker_death
from pipeline.utils.torchvision_compat import torchvision

T = TypeVar("T")


def chain(data: DataConfig) -> Any:
    """The transforms of the reference scripts (crop=window) or of RepDistiller and mdistiller (crop=pad)."""
    t = torchvision().transforms
    size = data.image_size
    crops = {
        "window": [t.RandomResizedCrop(size, data.scale, data.ratio)],
        "pad": [t.RandomCrop(size, padding=data.padding)],
        "none": [t.Resize(data.resize or size), t.CenterCrop(size)],
    }
    flips = [t.RandomHorizontalFlip()] if data.flip else []
    return t.Compose([*crops[data.crop], *flips, t.ToTensor(), t.Normalize(data.mean, data.std)])


def image_folder(images: FileSet, transform: Any) -> Any:
    """torchvision's ImageFolder over exactly the files of the set; its own code opens and decodes them."""
    root, labels = images.root, images.label_N.tolist()
    samples = [(str(root / path), label) for path, label in zip(images.paths, labels, strict=True)]
    methods: dict[str, Callable[..., Any]] = {
        "find_classes": lambda self, directory: (list(images.class_names), {}),
        "make_dataset": staticmethod(lambda *args, **options: samples),
    }
    return type("OfSet", (torchvision().datasets.ImageFolder,), methods)(str(root), transform=transform, loader=opened)


def opened(path: str) -> Any:
    """torchvision's own loader of one file, whose error names the file."""
    try:
        return torchvision().datasets.folder.default_loader(path)
    except OSError as error:
        raise OSError(f"{path}: {error}") from None


class InMemory(Dataset[Any]):
    """Images in memory through Pillow and a transform: what torchvision's CIFAR classes do."""

    def __init__(self, images: ImageSet, transform: Any) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images.read(index))), int(self.images.label_N[index])


def in_memory(images: ImageSet, data: DataConfig, transform: Any) -> Any:
    """torchvision's CIFAR10 or CIFAR100; for other sets a class that does the same."""
    datasets = torchvision().datasets
    kinds = {kind.__name__.lower(): kind for kind in (datasets.CIFAR10, datasets.CIFAR100)}
    if images.name not in kinds or data.root is None:
        return InMemory(images, transform)
    # The integrity check of the package wants the original archive; a re-ordered copy holds the same images.
    unchecked = {"_check_integrity": lambda self: True, "_load_meta": _no_meta}
    return type("Unchecked", (kinds[images.name],), unchecked)(data.root, train=True, transform=transform)


def _no_meta(images: Any) -> None:
    images.classes, images.class_to_idx = [], {}


def samples_of(images: ImageSet, data: DataConfig) -> tuple[str, Any]:
    """(what it is, torchvision's data set of these images with the transforms of the run)."""
    transform = chain(data)
    if isinstance(images, FileSet):
        return "ImageFolder", image_folder(images, transform)
    return "Dataset", in_memory(images, data, transform)


def guarded(name: str, act: Callable[[], T]) -> T:
    """What `act` gives. Raises InputError for a set that torchvision cannot read; a dead worker is not its fault."""
    try:
        return act()
    except (OSError, ValueError, RuntimeError) as error:  # it has no policy for images that cannot be read
        if worker_death(error) is not None:
            raise
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"torchvision's {name} cannot read the set: {reason}") from None


def yardstick(config: BenchmarkConfig, images: ImageSet, world: World) -> tuple[str, Measure]:
    """(what it is, its images/s: float32 batches, normalised in the workers, on the device). Raises InputError."""
    data, device = config.data, world.device
    name, samples = samples_of(images, data)
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_size=data.batch_size,
        shuffle=True,
        num_workers=data.workers,
        persistent_workers=data.workers > 0,
        pin_memory=device.type == "cuda",
    )

    def rows(batch: tuple[torch.Tensor, torch.Tensor]) -> int:
        image_BCHW, label_B = (part.to(device, non_blocking=True) for part in batch)
        return min(len(image_BCHW), len(label_B))

    stream, ahead = of_batches(lambda: batches_of(loader), rows), batches_ahead(data.workers)
    steps, seconds, wait = config.batches, config.seconds, wait_for(device)

    def measure() -> Round:
        return guarded(name, lambda: stretch(stream, steps=steps, seconds=seconds, ahead=ahead, wait=wait))

    guarded(name, lambda: next(stream))  # its workers are forked here, before other loaders start threads
    return f"torchvision {name}", measure
