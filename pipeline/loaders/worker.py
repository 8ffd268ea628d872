"""`torch`: worker processes of torch.utils.data.DataLoader decode, cut, mirror and rotate on the host."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders import LOADERS
from pipeline.loaders.epochs import EpochLoader, Span
from pipeline.loaders.pixels import cut, fit
from pipeline.loaders.plan import Plan


class Task(NamedTuple):
    """The samples of one batch and the view to show of them: all that a worker needs, whatever came before."""

    view: int
    index_B: NDArray[np.int64]


class HostBatches(Dataset[Any]):
    """Turns a task into the pixels of its batch, uint8 [B, S, S, 3]. Picklable, so that workers may be spawned.

    A worker hands an InputError back as a value: raised in a worker it would arrive wrapped into a traceback.
    """

    def __init__(self, image_set: ImageSet, plan: Plan) -> None:
        self.image_set = image_set
        self.plan = plan

    def __getitem__(self, task: Task) -> Tensor | InputError:
        try:
            images = [self.image_set.read(i) for i in task.index_B.tolist()]
        except InputError as error:
            return error
        pixels = self._windows(images, task) if self.plan.windows else self._crops(images, task)
        if self.plan.mirrors:
            flip_B = np.asarray(views.flips(self.plan.data_seed, task.view, task.index_B))
            pixels[flip_B] = pixels[flip_B, :, ::-1]
        if self.plan.degrees:
            pixels = self._rotated(pixels, task)
        return torch.from_numpy(pixels)

    def _windows(self, images: list[NDArray[np.uint8]], task: Task) -> NDArray[np.uint8]:
        """RandomResizedCrop: a window of each image, resized."""
        plan = self.plan
        height_B, width_B = np.array([image.shape[:2] for image in images], dtype=np.int64).T
        window_B4 = views.resized_crop_windows(
            plan.data_seed, task.view, task.index_B, height_B, width_B, plan.scale, plan.ratio
        )
        return np.stack([cut(image, window, plan.image_size) for image, window in zip(images, window_B4, strict=True)])

    def _crops(self, images: list[NDArray[np.uint8]], task: Task) -> NDArray[np.uint8]:
        """The images at image_size, cut out of their padded selves where a border is asked for."""
        size, border = self.plan.image_size, self.plan.border
        pixels = np.stack([fit(image, self.plan.shorter_side, size) for image in images])
        if not border:
            return pixels
        padded = np.pad(pixels, ((0, 0), (border, border), (border, border), (0, 0)))
        top_B, left_B = views.crop_offsets(self.plan.data_seed, task.view, task.index_B, border)
        for b, (top, left) in enumerate(zip(top_B.tolist(), left_B.tolist(), strict=True)):
            pixels[b] = padded[b, top : top + size, left : left + size]
        return pixels

    def _rotated(self, pixels: NDArray[np.uint8], task: Task) -> NDArray[np.uint8]:
        size, at_S = self.plan.image_size, np.arange(self.plan.image_size)
        angle_B = views.rotation_angles(self.plan.data_seed, task.view, task.index_B, self.plan.degrees)
        y, x, inside = views.rotation_sources(views.rotation_matrices(angle_B, size, size), at_S, at_S)
        sample = np.arange(len(pixels))[:, None, None]
        return np.where(inside[..., None], pixels[sample, np.where(inside, y, 0), np.where(inside, x, 0)], np.uint8(0))


class Tasks:
    """A sampler whose tasks are replaced before each epoch."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)


def _as_is(item: Any) -> Any:
    return item


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Terminals, torchrun and Slurm signal all processes of a job: a worker must live until the trainer has finished.

    Only the trainer's own SIGTERM ends a worker: ignored altogether, it would make the trainer wait for ever at exit,
    where multiprocessing terminates what is left and joins it. A trainer that is killed is noticed by DataLoader's
    watchdog within seconds.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_when_the_trainer_says, daemon=True).start()


def _end_when_the_trainer_says() -> None:
    trainer = multiprocessing.parent_process()  # not os.getppid(): that may be a fork server
    while trainer and signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer.pid:
        pass
    os._exit(0)


@LOADERS.register("torch")
class WorkerLoader(EpochLoader):
    """plan.workers processes (0 = none: work is done in the trainer) that live on between epochs."""

    def __init__(self, image_set: ImageSet, plan: Plan) -> None:
        super().__init__(image_set, plan)
        self._device = torch.device(plan.device)
        self._tasks = Tasks()
        self._loader = DataLoader(
            HostBatches(image_set, plan),
            batch_size=None,
            sampler=self._tasks,
            collate_fn=_as_is,
            num_workers=plan.workers,
            persistent_workers=plan.workers > 0,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_trainer,
            # Of its own: DataLoader draws a seed per epoch, and must not disturb the trainer's random state.
            generator=torch.Generator(),
        )

    def _pixels(self, row_N: NDArray[np.int64], view: int, spans: Sequence[Span]) -> Iterator[Tensor]:
        index_N = self.index_N[row_N]
        self._tasks.tasks = [Task(view, index_N[span.start : span.stop]) for span in spans]
        for pixels_BHWC in self._loader:
            if isinstance(pixels_BHWC, InputError):
                # A new one: raising a local variable makes a cycle (error, traceback, frame) that keeps the workers.
                raise InputError(str(pixels_BHWC))
            yield pixels_BHWC.to(self._device, non_blocking=True)
