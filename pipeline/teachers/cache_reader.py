"""Rows of a teacher cache by sample: memory-mapped, or a whole view on the device; read and checked a view ahead."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.contracts import Batch, InputError
from pipeline.teachers.cache_format import (
    Manifest,
    check_sizes,
    check_sum,
    file_name,
    open_array,
    read_manifest,
)
from pipeline.teachers.codecs import Codec

DEVICE_SHARE = 0.25  # of the device's free memory that a view may take where it is asked to decide by itself
READ = 1 << 24  # bytes at a time


def fits(view_bytes: int, device: torch.device) -> bool:
    """Whether a view is to lie on the device: not where the device is the host, whose page cache does as well."""
    return device.type == "cuda" and view_bytes < DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


class CacheReader:
    """Opens DIR/manifest.json and hands out rows. check: first (sums of a view before its first use), off, all (now).

    pooled: whether pooled vectors are wanted; streams: the views that are, all unless told otherwise. A view's files
    are read once in order by a thread while the view before it is in use: the look-ups, which are scattered, then find
    them in memory. Raises InputError for whatever is damaged.
    """

    def __init__(
        self, folder: Path, device: torch.device, *, on_device: bool | None, check: str, pooled: bool = True
    ) -> None:
        self.folder, self.device, self.check = folder, device, check
        self.manifest: Manifest = read_manifest(folder)
        check_sizes(folder, self.manifest)
        self.layout = self.manifest.layout
        self.on_device = fits(self.layout.bytes_per_view(), device) if on_device is None else on_device
        self._thread = ThreadPoolExecutor(1)
        self._ready: dict[int, Future[None]] = {}
        self._view = -1
        self._arrays: dict[str, NDArray[Any]] = {}
        self._resident: dict[str, Tensor] = {}
        if check == "all":
            for name in self.manifest.files:
                check_sum(folder, self.manifest, name)
        self._kinds = ("logits", "pooled") if pooled else ("logits",)
        self.streams: tuple[str, ...] = ("", *self.layout.streams)

    def arrays(self) -> Iterator[tuple[str, str, Codec, int]]:
        """What is read of the cache, as Layout.arrays tells it."""
        return self.layout.arrays(self.streams, self._kinds)

    def _names(self, view: int) -> dict[str, tuple[np.dtype[Any], int]]:
        return self.layout.files(view, self.streams, self._kinds)

    def _fetch(self, view: int) -> None:
        for name in self._names(view):
            if self.check == "first":
                check_sum(self.folder, self.manifest, name)
                continue
            with (self.folder / name).open("rb") as handle:
                while handle.read(READ):
                    pass

    def _await(self, view: int) -> None:
        """The view's files read and checked; those of the next one begun. One is kept in mind, not all."""
        if view not in self._ready:
            self._ready[view] = self._thread.submit(self._fetch, view)
        self._ready[view].result()
        following = (view + 1) % self.layout.views
        self._ready = {v: f for v, f in self._ready.items() if v in (view, following)}
        if following not in self._ready:
            self._ready[following] = self._thread.submit(self._fetch, following)

    def _turn_to(self, view: int) -> None:
        if not 0 <= view < self.layout.views:
            raise InputError(f"teacher cache {self.folder} holds views 0 to {self.layout.views - 1}, not view {view}")
        self._await(view)
        names = self._names(view)
        self._arrays = {n: open_array(self.folder, self.manifest, n, *shape) for n, shape in names.items()}
        self._resident = {}
        if self.on_device:
            self._resident = {n: torch.from_numpy(np.array(a)).to(self.device) for n, a in self._arrays.items()}
        self._view = view

    def _rows(self, name: str, batch: Batch) -> Tensor:
        if self._resident:
            return self._resident[name][batch.index_B]
        index_B = batch.index_B if batch.info.host_index_B is None else batch.info.host_index_B
        rows = torch.from_numpy(self._arrays[name][index_B.cpu().numpy()])
        # Pinned memory comes from torch's cache, which knows when a copy has ended.
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """{"logits": float32 [B, K], "pooled": float32 [B, D] where stored} of the batch's view and stream."""
        if batch.info.view != self._view:
            self._turn_to(batch.info.view)
        found = {}
        for stream, what, codec, width in self.arrays():
            if stream == batch.info.stream:
                names = {suffix: file_name(batch.info.view, stream, what, suffix) for suffix in codec.parts}
                packed = {suffix: self._rows(name, batch) for suffix, name in names.items()}
                found[what] = codec.unpack(packed, width)
        if not found:
            raise InputError(f"teacher cache {self.folder} holds no view called {batch.info.stream!r}")
        return found
