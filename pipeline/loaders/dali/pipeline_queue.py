"""Batches through a DALI pipeline one after the other, by one thread that owns it."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pipeline.contracts import InputError
from pipeline.loaders.dali.graph import Decoder
from pipeline.loaders.dali.request import Ask

Queue = deque["Future[Ask]"]


class Line:
    """Keeps `depth` batches of a queue in the pipeline.

    decoder: makes a pipeline. repair: gets a batch that DALI refuses and the rows of it that are the cause; it gives
    the batch in another form, or raises InputError.
    """

    def __init__(self, decoder: Callable[[], Decoder], depth: int, repair: Callable[[Ask, list[int]], Ask]) -> None:
        self._make = decoder
        self._depth = depth
        self._repair = repair
        self._decoder: Decoder | None = None
        self._queue: Queue = deque()
        self._begun: deque[Ask] = deque()

    def take(self, queue: Queue, use: Callable[[Ask, Any], Any]) -> Any:
        """use(batch, its images as DALI gives them) for the next batch of `queue`, while later ones are decoded.

        Another queue than before: what is left of the old one is dropped. Raises the InputError of a bad image.
        """
        if self._decoder is None:
            self._decoder = self._make()
        if queue is not self._queue:
            while self._begun:
                self._outputs_or_none(self._begun.popleft())
            self._queue = queue
        if not self._begun:
            self._begin(queue.popleft().result())
        self._begin_ready()
        images = self._outputs_or_none(self._begun[0])
        if images is None:
            images = self._decoded_otherwise()
        ask = self._begun.popleft()
        self._begin_ready()
        return use(ask, images)

    def _begin(self, ask: Ask) -> None:
        assert self._decoder is not None
        self._begun.append(ask)
        self._decoder.begin(ask)

    def _begin_ready(self) -> None:
        """Goes on with the queue while batches are there that could be read: others wait for their turn."""
        while self._queue and self._begun and len(self._begun) < self._depth:
            first = self._queue[0]
            if not first.done() or first.exception() is not None:
                return
            self._queue.popleft()
            self._begin(first.result())

    def _outputs_or_none(self, ask: Ask) -> Any:
        """None where DALI cannot decode a part of the batch: there is a new pipeline then, with nothing in it."""
        assert self._decoder is not None
        try:
            return self._decoder.outputs()
        except RuntimeError:
            self._decoder = self._make()
            return None

    def _decoded_otherwise(self) -> Any:
        """The batch that is first now, without the images that DALI refuses; then the others are begun again."""
        refused, *others = self._begun
        self._begun.clear()
        for ask in reversed(others):
            waiting: Future[Ask] = Future()
            waiting.set_result(ask)
            self._queue.appendleft(waiting)
        rows = [b for b in range(len(refused.index_B)) if not self._accepted(refused.row(b))]
        self._begin(self._repair(refused, rows))
        images = self._outputs_or_none(refused)
        if images is None:
            raise InputError(f"DALI cannot decode a batch of images {refused.index_B.tolist()}")
        return images

    def _accepted(self, ask: Ask) -> bool:
        assert self._decoder is not None
        self._decoder.begin(ask)
        return self._outputs_or_none(ask) is not None
