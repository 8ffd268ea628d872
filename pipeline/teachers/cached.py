"""The teacher as records written ahead of time (data_prep/cache_teacher.py): the numbers of the live one, exactly."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.contracts import Batch, InputError, ModelOutput, Shapes, Signal, TeacherSource
from pipeline.teachers import TEACHERS
from pipeline.teachers.cache_format import differences, whole
from pipeline.teachers.cache_reader import CacheReader
from pipeline.teachers.codecs import errors, rounding


@TEACHERS.register("cached")
class CachedTeacher:
    """Looks its outputs up by batch.info.view, batch.info.stream and the batch's indices.

    folder: of the cache; make_live: the teacher whose outputs they are, for what was not written (images that a method
    chooses by the teacher's output: batch.info.stream is None) and for checks; None where there is no checkpoint of it.
    verify: first (the first batch of each stream is compared with the live teacher, each view's checksums before its
    use), all (every batch, all checksums at once), off. views: V, the run shows view epoch mod V. tf32: where the live
    teacher runs in it (off, convolutions, on).
    """

    def __init__(
        self,
        folder: Path,
        make_live: Callable[[], TeacherSource] | None,
        device: torch.device,
        *,
        verify: str = "first",
        on_device: bool | None = None,
        keeps_live: bool = False,
        pooled: bool = True,
        tf32: str = "off",
    ) -> None:
        self.reader = CacheReader(folder, device, on_device=on_device, check=verify, pooled=pooled)
        self.views: int | None = self.reader.layout.views
        self.noise = rounding(self.reader.manifest.amp, self.reader.manifest.tf32, tf32)
        self.verify, self.keeps_live = verify, keeps_live or verify == "all"
        self.live = None if make_live is None else make_live()
        self.provides = Signal.LOGITS
        if self.reader.layout.pooled:
            self.provides |= Signal.POOLED
        if self.live is not None:
            self.provides |= Signal.WEIGHTS
        self._unchecked = set() if self.live is None or verify == "off" else {"", *self.reader.layout.streams}

    recorded = True
    section = None

    @property
    def compares(self) -> bool:
        """Whether the next batch is compared with the live teacher."""
        return bool(self._unchecked)

    @property
    def shapes(self) -> Shapes:
        """What is known of its outputs without a network."""
        return Shapes(self.reader.layout.classes, self.reader.layout.pooled, ())

    @property
    def network(self) -> Any:
        """The live teacher's, None where there is none."""
        return None if self.live is None else self.live.network

    def modules(self) -> Sequence[nn.Module]:
        """The live teacher's."""
        return () if self.live is None else self.live.modules()

    @property
    def lossy(self) -> bool:
        """Whether classes are missing from the records."""
        return self.reader.layout.logits.lossy

    def accept(self, identity: Mapping[str, Any]) -> None:
        """Raises InputError that names both sides unless the records are of what this run shows and asks."""
        there = whole(self.reader.manifest.identity)
        for section, name in (("teacher", "weights"), ("precision", "tf32")):
            if name not in identity[section]:
                there[section] = {n: value for n, value in there.get(section, {}).items() if n != name}
        there["streams"] = {name: there.get("streams", {}).get(name) for name in identity["streams"]}
        found = differences(there, identity)
        layout, samples = self.reader.layout, identity["dataset"]["samples"]
        if layout.samples != samples:
            found.append(f"layout.samples is {layout.samples} there, {samples} here")
        self.reader.streams = ("", *identity["streams"])
        self._unchecked &= set(self.reader.streams)
        if found:
            rest = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            raise InputError(f"teacher cache {self.reader.folder} is of another run: {'; '.join(found[:3])}{rest}")

    def __call__(self, batch: Batch) -> ModelOutput | None:
        if batch.info.stream is None:
            if self.live is None:
                raise InputError("the method chooses images that no cache can hold: give teacher.checkpoint=FILE")
            return self.live(batch)
        found = self.reader(batch)
        logits_BK = found["logits"]
        output = ModelOutput(logits_BK, found.get("pooled", logits_BK[:, :0]))
        # A batch of nobody's images (which fixes DDP's buckets before the first step) has no indices on the host.
        if batch.info.stream in self._unchecked and batch.info.host_index_B is not None:
            self._compare(batch, output)
        return output

    def _compare(self, batch: Batch, output: ModelOutput) -> None:
        """With the live teacher, whose host synchronisation is paid once (verify=all: each time)."""
        assert self.live is not None
        live = self.live(batch)
        assert live is not None
        for stream, what, codec, _ in self.reader.arrays():
            if stream != batch.info.stream:
                continue
            found_BK, wanted_BK = (getattr(o, f"{what}_B{'K' if what == 'logits' else 'D'}") for o in (output, live))
            if found_BK.shape != wanted_BK.shape:
                raise InputError(
                    f"teacher cache {self.reader.folder}: {what} have {found_BK.shape[1]} columns, the live teacher's "
                    f"{wanted_BK.shape[1]}"
                )
            gap, share = errors(found_BK, wanted_BK, codec, self.noise)
            if not share <= 1:
                view = f"{batch.info.view}{f' {stream}' if stream else ''}"
                raise InputError(
                    f"teacher cache {self.reader.folder}: {what} of view {view} "
                    f"differ from the live teacher's by {gap:.3g}, {share:.3g} times what {self.reader.layout.dtype} "
                    "may: another teacher, other pixels or other libraries than at writing (teacher.verify)"
                )
        if self.verify != "all":
            self._unchecked.discard(str(batch.info.stream))
        if not self._unchecked and not self.keeps_live:
            self.live = None  # its memory is the student's
