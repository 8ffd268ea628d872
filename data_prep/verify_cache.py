"""Recompute a sample of a teacher cache and compare.

python data_prep/verify_cache.py DIR [records=1024] [seed=0] [key=value ...]

Chunks of records over all views go through the live teacher again. Prints the largest difference of logits, the KL
divergence at T = 1 and 4, and the agreement of the largest class, by stream; exit code 1 where a difference exceeds
what the type of the records allows. Other keys override those of its making (data.root=, teacher.checkpoint=).
"""

import os
import re
import sys
from collections import defaultdict
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from pipeline import signals  # before torch, whose import takes seconds

    signals.listen()

from pipeline import cli  # before torch: see pipeline/__init__.py

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.cache_keys import read_config
from data_prep.cache_teacher import MADE, Source, identity, open_source, outputs
from pipeline import views
from pipeline.config import HelpRequested
from pipeline.contracts import InputError
from pipeline.engine.distributed import parallel
from pipeline.teachers.cache_format import Manifest, check_sum, differences, whole
from pipeline.teachers.cache_reader import CacheReader
from pipeline.teachers.codecs import errors, rounding

OWN = {"records": 1024, "seed": 0}


class NotEqual(Exception):
    """Records differ from the live teacher's outputs by more than their type allows."""


FAILURES: dict[type[Exception], int] = {NotEqual: 1}


def divergence(found_BK: Tensor, wanted_BK: Tensor, T: float) -> float:
    """mean KL(softmax(wanted / T) || softmax(found / T)), in float64."""
    log_p, log_q = (F.log_softmax(x.double() / T, dim=1) for x in (found_BK, wanted_BK))
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True).item()


def chosen_steps(seed: int, view: int, steps: int, count: int) -> list[int]:
    """`count` different batches of a view, ascending."""
    return sorted(views.order(seed, view, steps, views.Stream.SPLIT)[:count].tolist())


def sample(source: Source, reader: CacheReader, records: int, seed: int) -> dict[tuple[str, str], list[Tensor]]:
    """(records, live outputs) by (stream, kind): a row of every view at least, `records` in all, or a few more."""
    layout = reader.layout
    per_view = -(-records // layout.views)
    pairs: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    rows_of_step = source.loader.num_samples // source.steps
    for view in range(layout.views):
        left = per_view
        for step in chosen_steps(seed, view, source.steps, -(-per_view // max(1, rows_of_step))):
            source.loader.set_epoch(view, step)
            batch = next(iter(source.loader))
            for (stream, kind), live in outputs(source, batch, bool(layout.pooled)):
                found = reader(batch.showing(stream) if stream else batch)[kind]
                if found.shape != live.shape:
                    raise InputError(f"{reader.folder}: {kind} have {found.shape[1]} columns, not {live.shape[1]}")
                pairs[stream, kind].append(torch.stack([found, live])[:, :left])
            left -= min(left, len(batch.label_B))
    return pairs


def report(manifest: Manifest, pairs: dict[tuple[str, str], list[Tensor]], tf32: str) -> bool:
    """Prints a line for each array. True when all are within their bounds. tf32: where the live teacher ran in it."""
    fine = True
    for stream, kind, codec, _ in manifest.layout.arrays():
        if (stream, kind) not in pairs:
            raise InputError(
                f"the teacher shows no view called {stream!r}: give the method that the cache was made for"
            )
        found_BK, wanted_BK = torch.cat(pairs[stream, kind], dim=1)
        gap, share = errors(found_BK, wanted_BK, codec, rounding(manifest.amp, manifest.tf32, tf32))
        text = f"{stream or 'ordinary'} {kind}: {len(found_BK)} records, max |dz| {gap:.3g} ({share:.3g} of the bound)"
        if kind == "logits":
            agree = (found_BK.argmax(1) == wanted_BK.argmax(1)).double().mean().item()
            kl = [divergence(found_BK, wanted_BK, T) for T in (1.0, 4.0)]
            text += f", KL {kl[0]:.3g} at T=1, {kl[1]:.3g} at T=4, arg-max agreement {100 * agree:.2f} %"
        print(text)
        fine = fine and share <= 1
    return fine


def split_words(argv: list[str]) -> tuple[Path, dict[str, int], list[str]]:
    """(cache, own keys, keys of the cache's making)."""
    if not argv or any(word in ("-h", "--help", "help") for word in argv):
        raise HelpRequested
    own = dict(OWN)
    rest = []
    for word in argv[1:]:
        name, _, value = word.partition("=")
        if name not in own:
            rest.append(word)
        elif not re.fullmatch("[0-9]{1,9}", value) or (name == "records" and not int(value)):
            raise InputError(f"{name}={value!r} is no number that makes sense here")
        else:
            own[name] = int(value)
    return Path(argv[0]), own, rest


def main(argv: list[str]) -> None:
    """The command line."""
    folder, own, rest = split_words(argv)
    if not os.path.isfile(folder / MADE):  # noqa: PTH113 - Path.is_file raises for names that are too long
        raise InputError(f"{folder} holds no {MADE}: it is no finished teacher cache")
    words = [f"config={folder / MADE}", f"cache.out={folder}", *rest]
    config = read_config(words)
    with parallel.start(config.runtime) as world:
        reader = CacheReader(folder, world.device, on_device=False, check="off")
        for name in reader.manifest.files:
            check_sum(folder, reader.manifest, name)
        source = open_source(config, world)
        if reader.layout.samples != len(source.images):
            raise InputError(f"{folder} is of {reader.layout.samples} images, the data set has {len(source.images)}")
        for line in differences(whole(reader.manifest.identity), identity(config, source)):
            print(f"warning: {line}")
        if not report(reader.manifest, sample(source, reader, own["records"], own["seed"]), world.tf32):
            raise NotEqual(f"{folder} is not what this teacher gives")


def help_text() -> str:
    """What --help prints."""
    return __doc__ or ""


if __name__ == "__main__":
    cli.run(main, help_text, FAILURES)
