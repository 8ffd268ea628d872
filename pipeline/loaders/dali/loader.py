"""`dali`: NVIDIA DALI decodes, on the CPU or on the GPU, what the law of views shows of each file."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from pipeline import views
from pipeline.contracts import InputError
from pipeline.datasets.image_set import FileSet, ImageSet
from pipeline.loaders import LOADERS
from pipeline.loaders.base import EpochLoader, Reads
from pipeline.loaders.config import PAIR_KINDS, LoaderConfig
from pipeline.loaders.dali.graph import Decoder, Graph, require_dali
from pipeline.loaders.dali.pipeline_queue import Line, Queue
from pipeline.loaders.dali.postprocess import Copy, Finish, moved
from pipeline.loaders.dali.request import Ask, ask_for
from pipeline.loaders.extra_views import Read


class Flow:
    """Batches in the order in which they are wanted, from one epoch into the next.

    expects: the epoch of which the next batch is. queue: batches that are read or being read, for the pipeline's thread
    to take; waiting: their pixels, once that has come.
    """

    def __init__(self, todo: Reads, following: Callable[[Reads], Reads | None]) -> None:
        self.expects: Reads | None = todo
        self.queue: Queue = deque()
        self.waiting: deque[Future[Tensor]] = deque()
        self.reads = self._reads(todo, following)

    def drop(self) -> None:
        """What has not begun is not done."""
        for pixels in self.waiting:
            pixels.cancel()

    @staticmethod
    def _reads(first: Reads, following: Callable[[Reads], Reads | None]) -> Iterator[tuple[Reads, Read]]:
        todo: Reads | None = first
        while todo is not None:
            for read in todo.reads:
                yield todo, read
            todo = following(todo)


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


@LOADERS.register("dali")
class DaliLoader(EpochLoader):
    """data.workers of DALI's threads (one where it is 0). docs/loader_dali.md tells what runs where.

    decoder: `cpu`, `mixed` (on the GPU) or `auto` (mixed where the device is one, unless views by operations are
    wanted, which are made on the host). hw_decoder_load: share of the images for the GPU's JPEG engine. prefetch:
    batches in DALI, and as many that are finished. resize: who does it for images that the CPU decoded: `quick` (torch,
    on bytes: single pixels are 1 of 255 off), `pillow` (the torch loader's functions, to the same bits) or `dali` (what
    a GPU does). data.decode changes nothing here: DALI decodes to Pillow's pixels on a CPU.
    Raises InputError without DALI, for sets that are no files, for rotation and for what cannot go together.
    """

    looks_ahead = True
    section = "dali"

    def __init__(
        self,
        image_set: ImageSet,
        config: LoaderConfig,
        decoder: str = "auto",
        hw_decoder_load: float = 0.65,
        prefetch: int = 2,
        resize: str = "quick",
    ) -> None:
        super().__init__(image_set, config)
        if not isinstance(image_set, FileSet):
            raise InputError(f"data.loader=dali decodes files, and {image_set.name} lies in memory: use resident")
        if config.degrees:
            raise InputError("the dali loader cannot rotate images (data.rotation): use data.loader=torch")
        require_dali()
        self._files: FileSet = image_set
        self._resize = resize
        self._device = torch.device(config.device)
        operated = [stream.kind for stream in config.drawn_by(views.OP_KINDS).values()]
        mixed = self._on_gpu(decoder, bool(operated))
        whole = mixed or resize == "dali"
        if operated and whole:
            raise InputError(
                "views by operations are made on the host: use data.dali.decoder=cpu and data.dali.resize=quick"
            )
        where = self._device if mixed else torch.device("cpu")
        self._made: Callable[[Ask, Any], Tensor] = Copy(where) if whole else Finish(config, operated, resize == "quick")
        self._graph = Graph(
            rows=self._most_rows(),
            threads=max(1, config.data.workers),
            depth=prefetch,
            finish=whole,
            device_id=_number(self._device) if mixed else None,
            hw_decoder_load=hw_decoder_load,
        )
        self._undecodable: set[int] = set()
        self._line = Line(lambda: Decoder(self._graph, self.config), prefetch, self._repaired)
        self._batches_ahead = 2 * prefetch
        self._flow: Flow | None = None
        self._readers = ThreadPoolExecutor(max(1, config.data.workers))
        self._owner = ThreadPoolExecutor(1)  # of the pipeline

    def _on_gpu(self, decoder: str, operated: bool) -> bool:
        gpu = self._device.type == "cuda"
        if decoder == "mixed" and not gpu:
            raise InputError(f"data.dali.decoder=mixed decodes on a GPU, and the run is on {self._device}")
        return decoder == "mixed" or (decoder == "auto" and gpu and not operated)

    def _most_rows(self) -> int:
        """Images of the largest batch, with those whose partners other ranks have."""
        rows = max((span.stop - span.start for span in self._spans), default=1)
        return rows * (1 + len(self.config.drawn_by(PAIR_KINDS)) * (self.config.ranks > 1))

    @property
    def pixels(self) -> str:
        if self._graph.finish:
            return "dali" if self._graph.device_id is None else "dali-gpu"
        return "dali-quick" if self._resize == "quick" and self.config.windows else "exact"

    def _pixels(self, todo: Reads) -> Iterator[Tensor]:
        flow = self._flow_of(todo)
        try:
            for _ in todo.reads:
                self._start(flow)
                pixels = flow.waiting.popleft()
                self._start(flow)
                yield moved(pixels.result(), self._device)
            flow.expects = self.following(todo)
            self._flow = flow
        finally:
            if self._flow is not flow:
                flow.drop()

    def _flow_of(self, todo: Reads) -> Flow:
        """The one that was begun ahead, if this is the epoch that it expects."""
        flow, self._flow = self._flow, None
        if flow is not None and flow.expects is todo:
            return flow
        if flow is not None:
            flow.drop()
        return Flow(todo, self.following)

    def _start(self, flow: Flow) -> None:
        while len(flow.waiting) < self._batches_ahead:
            coming = next(flow.reads, None)
            if coming is None:
                return
            todo, read = coming
            flow.queue.append(self._readers.submit(ask_for, self._files, self.config, todo, read, self._undecodable))
            flow.waiting.append(self._owner.submit(self._line.take, flow.queue, self._made))

    def _repaired(self, ask: Ask, rows: list[int]) -> Ask:
        """Those images as the set reads them: Pillow knows more formats, and a set may know a replacement."""
        self._undecodable.update(ask.index_B[rows].tolist())
        todo = Reads(0, 0, ask.view, ask.size, ask.index_B, ())
        read = Read(0, len(ask.index_B), ask.own)
        return ask_for(self._files, self.config, todo, read, self._undecodable)
