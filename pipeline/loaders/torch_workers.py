"""`torch`: worker processes of torch.utils.data.DataLoader decode, cut, mirror and rotate on the host."""

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from pipeline.contracts import InputError
from pipeline.datasets.image_set import ImageSet
from pipeline.datasets.slow_reads import watch
from pipeline.loaders import LOADERS
from pipeline.loaders.base import EpochLoader, Reads
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.cpu_batches import HostBatches, Made, Task
from pipeline.loaders.epoch_stream import Chain
from pipeline.loaders.worker_deaths import batches_of, say_nothing_of_the_trainer

LOOK_SECONDS = 1.0
PR_SET_PDEATHSIG = 1
_started_by_the_trainers_main_thread = False  # forked workers see what stood here


class Tasks:
    """A sampler whose tasks are replaced before each pass."""

    def __init__(self) -> None:
        self.tasks: Iterator[Task] = iter(())

    def __iter__(self) -> Iterator[Task]:
        return self.tasks


def _as_is(item: Any) -> Any:
    return item


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Terminals, torchrun and Slurm signal all processes of a job: a worker must live until the trainer has finished.

    Only the trainer's own SIGTERM ends a worker: ignored altogether, it would make the trainer wait for ever at exit,
    where multiprocessing terminates what is left and joins it. A trainer that is gone, however it went, ends it within
    a second, in a read that hangs too (DataLoader's own watchdog looks between batches only); the kernel does so at
    once, and also where the worker is stopped.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if _started_by_the_trainers_main_thread:  # the kernel means the thread that forked, not its process
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    say_nothing_of_the_trainer()
    info = get_worker_info()
    made_by = info.dataset if info is not None else None
    limit = made_by.config.data.read_timeout if isinstance(made_by, HostBatches) else 0.0
    watch(limit, f"data worker {worker} ")
    threading.Thread(target=_end_when_the_trainer_says, daemon=True).start()


def _end_when_the_trainer_says() -> None:
    trainer = multiprocessing.parent_process()  # not os.getppid(): that may be a fork server
    while trainer is not None and trainer.is_alive():
        heard = signal.sigtimedwait({signal.SIGTERM}, LOOK_SECONDS)
        if heard is not None and heard.si_pid == trainer.pid:
            break
    os._exit(0)


@LOADERS.register("torch")
class WorkerLoader(EpochLoader):
    """data.workers processes (0 = none: work is done in the trainer) that live on between epochs.

    They go on into the next epoch while the trainer evaluates, writes and begins it; an epoch that is left early costs
    the batches that were under way. A worker that dies is named by torch's RuntimeError (worker_deaths.py).
    """

    looks_ahead = True

    def __init__(self, image_set: ImageSet, config: LoaderConfig) -> None:
        super().__init__(image_set, config)
        self._device = torch.device(config.device)
        self._tasks = Tasks()
        self._chain: Chain[Made | InputError] = Chain(self.following)
        self._loader = DataLoader(
            HostBatches(image_set, config),
            batch_size=None,
            sampler=self._tasks,
            collate_fn=_as_is,
            num_workers=config.data.workers,
            persistent_workers=config.data.workers > 0,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_trainer,
            # Of its own: DataLoader draws a seed per epoch, and must not disturb the trainer's random state.
            generator=torch.Generator(),
        )

    def _pixels(self, todo: Reads) -> Iterator[Tensor]:
        for made in self._chain.batches(todo, self._start):
            if isinstance(made, InputError):
                # A new one: raising a local variable makes a cycle (error, traceback, frame) that keeps the workers.
                raise InputError(str(made))
            self.note_replaced(made.replaced)
            yield made.pixels_BHWC.to(self._device, non_blocking=True)

    def _start(self, tasks: Iterator[Task]) -> Iterator[Made | InputError]:
        global _started_by_the_trainers_main_thread
        self._tasks.tasks = tasks
        _started_by_the_trainers_main_thread = threading.current_thread() is threading.main_thread()
        return batches_of(self._loader)
