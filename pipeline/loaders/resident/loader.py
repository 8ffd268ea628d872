"""`resident`: the whole set as uint8 in memory, decoded once.

Images of one size lie on the device; crop, flip and rotation are one gather per batch. Where windows are drawn, images
of any size lie in the host's memory, and the torch loader's code cuts the windows in threads.

On two cores (Xeon 2.5 GHz, torch 2.13, CIFAR-100, batch 64) choosing pixels by index is within a factor of 2.5 of the
fastest alternative, a gather of row windows out of a second, mirrored copy of the set, and needs half the memory.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pipeline import views
from pipeline.contracts import Draft
from pipeline.datasets.image_set import ImageSet
from pipeline.loaders import LOADERS
from pipeline.loaders.base import Epoch, EpochLoader, Reads
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.cpu_batches import Task
from pipeline.loaders.epoch_stream import Chain
from pipeline.loaders.pixels import fit
from pipeline.loaders.resident.packed_set import pack
from pipeline.loaders.thread_prefetch import MadeAhead, fitted

BLOCK = 256  # images copied to the device at a time


@LOADERS.register("resident")
class ResidentLoader(EpochLoader):
    """Reads (and decodes) every image once. Raises InputError where the decoded images would not fit into memory."""

    looks_ahead = True

    def __init__(self, image_set: ImageSet, config: LoaderConfig) -> None:
        super().__init__(image_set, config)
        self._device = torch.device(config.device)
        self._crops: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # by epoch and first step, made ahead
        if config.windows:
            packed = pack(image_set, self.index_N, config.data.workers)
            self._windows = MadeAhead(packed, config.with_data(decode="exact"))
            self._chain: Chain[Tensor] = Chain(self.following)
            return
        size = config.image_size
        self._wide = size + 2 * config.border
        self._pixel_P3 = self._load()
        self._index_N = torch.from_numpy(self.index_N).to(self._device)
        self._at_S = torch.arange(size, device=self._device)
        self._channel_3 = torch.arange(3, device=self._device)
        self._rows_S = self._at_S * self._wide
        self._columns_2S = torch.stack([self._at_S, self._at_S.flip(0)])
        self._byte_Q3 = self._normalise.table()
        self._operated = self._operated_ahead() if config.drawn_by(views.OP_KINDS) else None

    @property
    def pixels(self) -> str:
        return "exact"

    def _inner(self, pixel_P3: Tensor) -> Tensor:
        """The images without their border, [N, S, S, 3], where they lie."""
        wide, border = self._wide, self.config.border
        return pixel_P3[:-1].view(-1, wide, wide, 3)[:, border : wide - border, border : wide - border]

    def _operated_ahead(self) -> MadeAhead:
        # A second copy in the host's memory where the device is another.
        images = fitted(self.image_set, self.index_N, self._inner(self._pixel_P3).cpu())
        return MadeAhead(images, self.config.with_data(resize=None))

    def _load(self) -> Tensor:
        """All pixels with their border, uint8 [N * wide * wide + 1, 3]; the last one is 0, for what lies outside."""
        config, wide = self.config, self._wide
        pixel_P3 = torch.zeros(len(self.index_N) * wide * wide + 1, 3, dtype=torch.uint8, device=self._device)
        inner = self._inner(pixel_P3)

        def place(start: int) -> None:
            block = self.index_N[start : start + BLOCK].tolist()
            images = [fit(self.image_set.read(i), config.shorter_side, config.image_size) for i in block]
            inner[start : start + BLOCK] = torch.from_numpy(np.stack(images)).to(self._device)

        with ThreadPoolExecutor(max(1, config.data.workers)) as pool:
            for _ in pool.map(place, range(0, len(self.index_N), BLOCK)):
                pass
        return pixel_P3

    def _pixels(self, todo: Reads) -> Iterator[Tensor | Draft]:
        config = self.config
        if self.drafts and config.train and not (config.windows or config.degrees or config.streams):
            return self._drafts(todo)
        if self.config.windows:
            made = self._chain.batches(todo, self._windows)
            return (pixels_BHWC.to(self._device, non_blocking=True) for pixels_BHWC in made)
        plain = self._plain(todo)
        if self._operated is None:
            return plain
        both = zip(plain, self._by_operations(todo, self._operated), strict=True)
        return (torch.cat(pixels) for pixels in both)

    def _by_operations(self, todo: Reads, make: MadeAhead) -> Iterator[Tensor]:
        """For each read the views by operations of its own rows."""
        tasks = (Task(todo.view, todo.index_M[start : start + own]) for start, _, own in todo.reads)
        for made_BHWC, read in zip(make(tasks), todo.reads, strict=True):
            yield made_BHWC[read.own :].to(self._device, non_blocking=True)

    def _prepare(self, epoch: int, first: int = 0) -> Epoch:
        ready = super()._prepare(epoch, first)
        if not self.config.windows:
            self._crops[epoch, first] = self._corners(ready.todo)
        return ready

    def _crops_of(self, todo: Reads) -> tuple[Tensor, Tensor]:
        """`_corners`, from the thread that looked ahead where that has made them."""
        for key in [key for key in list(self._crops) if key[0] < todo.epoch]:
            self._crops.pop(key, None)
        found = self._crops.pop((todo.epoch, todo.first), None)
        return self._corners(todo) if found is None else found

    def _corners(self, todo: Reads) -> tuple[Tensor, Tensor]:
        """(position of the first pixel of each crop, 1 where it is mirrored), of the epoch."""
        config, view = self.config, todo.view
        index_M = torch.from_numpy(todo.index_M).to(self._device)
        row = torch.searchsorted(self._index_N, index_M)
        corner_M = row * self._wide**2
        mirror_M = torch.zeros_like(row)
        if config.border:
            top_M, left_M = views.crop_offsets(config.data.seed, view, index_M, config.border)
            corner_M += top_M * self._wide + left_M
        if config.mirrors:
            mirror_M = torch.as_tensor(views.flips(config.data.seed, view, index_M)).long()
        return corner_M, mirror_M

    def _drafts(self, todo: Reads) -> Iterator[Draft]:
        corner_M, mirror_M = self._crops_of(todo)
        make = self._make
        for start, stop, _ in todo.reads:
            yield Draft(make, (corner_M[start:stop], mirror_M[start:stop]))

    def _make(self, corner_B: Tensor, mirror_B: Tensor) -> Tensor:
        """Gather, window, mirror and normalise: one kernel, once it is compiled."""
        row_BS = corner_B[:, None] + self._rows_S
        position_BSS = row_BS[:, :, None] + self._columns_2S[mirror_B][:, None, :]
        byte_BSS3 = self._pixel_P3[position_BSS].long()
        image_BCHW = self._byte_Q3[byte_BSS3, self._channel_3].permute(0, 3, 1, 2)
        return image_BCHW if self.config.channels_last else image_BCHW.contiguous()

    def _plain(self, todo: Reads) -> Iterator[Tensor]:
        corner_M, mirror_M = self._crops_of(todo)
        matrix_M6 = self._matrices(todo)
        for start, stop, _ in todo.reads:
            turns = None if matrix_M6 is None else matrix_M6[start:stop]
            yield self._gather(corner_M[start:stop], mirror_M[start:stop], turns)

    def _matrices(self, todo: Reads) -> Tensor | None:
        """Rotations of the epoch, computed on the host."""
        config = self.config
        if not config.degrees:
            return None
        angle_M = views.rotation_angles(config.data.seed, todo.view, todo.index_M, config.degrees)
        return torch.from_numpy(views.rotation_matrices(angle_M, config.image_size, config.image_size)).to(self._device)

    def _gather(self, corner_B: Tensor, mirror_B: Tensor, matrix_B6: Tensor | None) -> Tensor:
        """uint8 [B, S, S, 3]: the crop at corner_B (position of its first pixel), mirrored, then rotated."""
        size = len(self._at_S)
        if matrix_B6 is None:
            row_BS = corner_B[:, None] + self._rows_S
            position = row_BS[:, :, None] + self._columns_2S[mirror_B][:, None, :]
        else:
            y, x, inside = views.rotation_sources(matrix_B6, self._at_S, self._at_S)
            x = torch.where(mirror_B[:, None, None] == 1, size - 1 - x, x)
            position = torch.where(inside, corner_B[:, None, None] + y * self._wide + x, len(self._pixel_P3) - 1)
        return self._pixel_P3.index_select(0, position.view(-1)).view(-1, size, size, 3)
