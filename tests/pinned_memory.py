"""What test_worker_deaths runs in a process of its own: threads that pin memory stay behind in it."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import resource_sharer

import torch
from torch.utils.data import DataLoader

from pipeline.loaders import worker_deaths


def fetch_with_a_thread(lives: bool) -> None:
    """Prints what the trainer is told, and what a thread says by itself, where fetching fails.

    lives: whether the worker does; else it is gone where the loader looks for the second time.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for name, value in {"is_available": True, "current_device_index": 0, "set_device_index": None}.items():
        setattr(torch.accelerator, name, lambda *at, value=value: value)
    how = {"num_workers": 1, "pin_memory": True, "multiprocessing_context": "fork"}
    loader: DataLoader[torch.Tensor] = DataLoader(torch.zeros(8, 2), **how)
    kind = torch.utils.data.dataloader._MultiProcessingDataLoaderIter
    kind._try_get_data.__defaults__ = (0.05,)
    threading.excepthook = lambda args: print("a thread says", args.exc_value)
    resource_sharer._ResourceSharer.get_connection = staticmethod(fail)
    if lives:
        worker_deaths.PATIENCE = 0.0
    worker_deaths.sleep = die
    try:
        next(worker_deaths.batches_of(loader))
    except (OSError, RuntimeError) as error:
        print(type(error).__name__, error, flush=True)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(0)


def fail(ident: object) -> object:
    raise ConnectionResetError("of the connection")


def die(seconds: float) -> None:
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
