"""The decode limit of a machine: JPEG libraries alone, on bytes in memory, in one process or several at once.

No loader that decodes whole files of the set can be faster. One that decodes a part of each (DALI's region decoding),
or smaller copies (a .beton), can.
"""

import io
import math
import multiprocessing
import queue
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.contracts import InputError
from pipeline.datasets.decode import JPEG_START
from pipeline.datasets.image_set import FileSet, ImageSet
from pipeline.loaders.worker_deaths import death_of, ended
from pipeline.measure.rounds import SPEED, Measure, Round

SAMPLE = 256  # files
SAMPLE_BYTES = 1 << 26
SECONDS = 1.5  # of one measurement
LOOK = 0.5
PATIENCE = 120  # seconds in which all processes must have started

Decoder = Callable[[bytes], Any]


def _scaled(data: bytes, by: int) -> Any:
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    return simplejpeg.decode_jpeg(
        data, "RGB", fastdct=True, fastupsample=True, min_height=math.ceil(height / by), min_width=math.ceil(width / by)
    )


DECODERS: dict[str, Decoder] = {
    "exact": lambda data: simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False),
    "fast": lambda data: simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True),
    "half": lambda data: _scaled(data, 2),
    "quarter": lambda data: _scaled(data, 4),
    "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")),
}
LIMIT = "exact"  # the decoder that `limit` means, where one figure is wanted
MEANINGS = {
    "exact": "simplejpeg, Pillow's pixels",
    "fast": "simplejpeg, fast DCT and upsampling",
    "half": "simplejpeg, fast, half the side",
    "quarter": "simplejpeg, fast, a quarter of the side",
    "pillow": "Pillow",
}


class Share(NamedTuple):
    """What one process did. cpu_seconds: of its own, less than `seconds` where others want the cores too."""

    images: int
    bytes: int
    seconds: float
    cpu_seconds: float


def sample_jpegs(images: ImageSet) -> list[bytes]:
    """Up to SAMPLE files of the set, evenly spread, that all DECODERS read; [] where the set holds none."""
    if not isinstance(images, FileSet):
        return []
    found: list[bytes] = []
    for index in np.linspace(0, len(images) - 1, min(SAMPLE, len(images)), dtype=int).tolist():
        data = images.read_bytes(index)
        if sum(map(len, found)) < SAMPLE_BYTES and _readable(data):
            found.append(data)
    return found


def _readable(data: bytes) -> bool:
    if not data.startswith(JPEG_START):
        return False
    try:
        for decode in DECODERS.values():
            decode(data)
    except (ValueError, OSError):
        return False
    return True


def decode_for(files: Sequence[bytes], decode: Decoder, seconds: float, first: int = 0) -> Share:
    """Decodes file after file, from number `first` on, until `seconds` have passed."""
    start, worked = time.perf_counter(), time.process_time()
    images = read = 0
    while images == 0 or time.perf_counter() - start < seconds:
        data = files[(first + images) % len(files)]
        decode(data)
        images, read = images + 1, read + len(data)
    return Share(images, read, time.perf_counter() - start, time.process_time() - worked)


def _work(files: Sequence[bytes], mode: str, seconds: float, number: int, barrier: Any, answers: Any) -> None:
    barrier.wait(PATIENCE)
    answers.put(decode_for(files, DECODERS[mode], seconds, 37 * number))


def _shares(workers: Sequence[BaseProcess], answers: Any, patience: float) -> list[Share]:
    """What all of them answer. Raises RuntimeError that names one that died, after ending the others."""
    shares: list[Share] = []
    until = time.monotonic() + patience
    while len(shares) < len(workers):
        try:
            shares.append(answers.get(timeout=LOOK))
        except queue.Empty:
            dead = [one for one in ended(workers) if one.exitcode]
            if not dead and time.monotonic() < until:
                continue
            for one in workers:
                one.kill()
            for one in workers:
                one.join()
            if dead:
                raise RuntimeError(death_of(dead[0])) from None
            raise
    return shares


def decode_in(files: Sequence[bytes], mode: str, processes: int, seconds: float) -> Round:
    """images/s, megabytes/s and images per second of processor time, of `processes` that begin at the same moment."""
    # Forked, as DataLoader's workers are: the files are shared, and nothing is imported again.
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_work, args=(files, mode, seconds, number, barrier, answers), daemon=True)
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    shares = _shares(workers, answers, PATIENCE + seconds)
    for worker in workers:
        worker.join()
    return {
        SPEED: sum(share.images / share.seconds for share in shares),
        "megabytes_per_second": sum(share.bytes / share.seconds for share in shares) / 1e6,
        "per_core": sum(share.images for share in shares) / sum(share.cpu_seconds for share in shares),
    }


def decode_measures(
    files: Sequence[bytes], modes: Sequence[str], counts: Sequence[int], seconds: float
) -> dict[str, Measure]:
    """One measure for each decoder and number of processes, by 'exact x 2'. Raises InputError without files."""
    if not files:
        raise InputError("the decode limit is that of JPEG files, and this set holds none that can be read")

    def of(mode: str, count: int) -> Measure:
        return lambda: decode_in(files, mode, count, seconds)

    return {label(mode, count): of(mode, count) for mode in modes for count in counts}


def label(mode: str, processes: int) -> str:
    """Key of a row."""
    return f"{mode} x {processes}"
