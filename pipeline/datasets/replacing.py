"""data.on_bad=replace: what cannot be read shows the next sample of its class, the same one in every process.

Sample i that cannot be read shows the first sample after i, in the order of the set and from its end on from its
beginning, that is of the same class and can be read. A file can be read when `decode_rgb` can decode it. Random draws
stay keyed by i; windows are drawn for the height and width of what is shown.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.contracts import InputError
from pipeline.datasets.image_set import FileSet, MachineFault

T = TypeVar("T")


class Replaced(NamedTuple):
    """shown: index of the sample shown instead; reason: names the file, the class and what is wrong."""

    shown: int
    reason: str


class ReplacingSet(FileSet):
    """`files` with its unreadable images replaced; names, labels, paths and sample ids are those of `files`.

    replaced: the finds of this process, by index, until `forget` hands them on. A machine that fails (a network drive,
    too many open files) is an InputError as ever: elsewhere or later the image could be read. So is a class that has
    no readable image at all.
    """

    files: FileSet
    replaced: dict[int, Replaced]
    _shown: dict[int, int]  # what has been found, whether it has been handed on or not
    _sound_N: NDArray[np.bool_]  # samples that have been read

    def __init__(self, files: FileSet) -> None:
        super().__init__(
            name=files.name,
            split=files.split,
            label_N=files.label_N,
            class_names=files.class_names,
            root=files.root,
            paths=files.paths,
            size_N2=files.size_N2,
            byte_N=files.byte_N,
            max_pixels=files.max_pixels,
        )
        # Not by assignment: sets are frozen.
        self.__dict__.update(files=files, replaced={}, _shown={}, _sound_N=np.zeros(len(files), bool))

    def read(self, index: int) -> NDArray[np.uint8]:
        return self._of_shown(index, self.files.read)

    def read_bytes(self, index: int) -> bytes:
        """The file that is shown for `index`, as it is."""
        return self.files.read_bytes(self.shown(index))

    def encoded(self, index: int) -> bytes:
        return self.files.encoded(self.shown(index))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of what is shown for `index`."""
        return self.files.size(self.shown(index))

    def shown(self, index: int) -> int:
        """The sample that is shown for `index`: itself when it can be read."""
        if not self._sound_N[self._shown.get(index, index)]:
            self._of_shown(index, self.files.check)
        return self._shown.get(index, index)

    def forget(self) -> dict[int, Replaced]:
        """The finds since the last call, for another process to `merge`; `replaced` is empty afterwards."""
        finds = dict(self.replaced)
        self.replaced.clear()
        return finds

    def merge(self, finds: Mapping[int, Replaced]) -> None:
        """Takes over what another process has found."""
        self.replaced.update(finds)
        self._shown.update({index: replaced.shown for index, replaced in finds.items()})

    def _of_shown(self, index: int, act: Callable[[int], T]) -> T:
        """act(sample) of the first sample in turn with which it does not fail."""
        reason, known = "", self._shown.get(index, index)
        for sample in self._in_turn(known, index):
            try:
                done = act(sample)
            except MachineFault:
                raise
            except InputError as error:
                reason = reason or str(error)
                continue
            self._sound_N[sample] = True
            if sample != known:
                self._shown[index] = sample
                self.replaced[index] = Replaced(sample, reason)
            return done
        label = self.class_names[int(self.label_N[index])]
        raise InputError(f"no image of class {label!r} can be read; the first of them: {reason}")

    def _in_turn(self, first: int, index: int) -> Iterator[int]:
        """`first`, then all others of the class of `index` in cyclic order after it."""
        yield first
        of_class = np.flatnonzero(self.label_N == self.label_N[index])
        at = int(np.searchsorted(of_class, first))
        yield from (int(sample) for sample in np.roll(of_class, -at)[1:])
