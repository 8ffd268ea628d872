"""The file beside a .beton: what was written, from what, and how to see that it is still whole."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.contracts import InputError
from pipeline.utils.atomic import whole_or_absent
from pipeline.utils.untrusted_files import Unreadable, read_object

FORMAT = "stillhouse beton 2"  # 1: the same without a sum for each sample
FORMATS = (FORMAT, "stillhouse beton 1")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """data_set, split, fingerprint: of the ImageSet that was written. max_resolution: pixels, None = as they were.

    quality: of the JPEGs, `keep` where bytes of the source were kept. raw_fraction: share of the images that are not
    JPEGs, drawn from seed. file_bytes, tables: size of the file, checksum of its header and tables.
    """

    format: str
    data_set: str
    split: str
    fingerprint: str
    samples: int
    max_resolution: int | None
    quality: int | str
    raw_fraction: float
    seed: int
    file_bytes: int
    tables: str


# All others are text. Numbers are not negative.
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("samples", "seed", "file_bytes"), (int,)),
    "max_resolution": (int, type(None)),
    "quality": (int, str),
    "raw_fraction": (int, float),
}


def manifest_path(path: Path) -> Path:
    """F.beton.json of F.beton."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the .beton at `path`. Raises InputError."""
    beside = manifest_path(path)
    if not os.path.lexists(beside):
        raise InputError(f"{path} has no readable {beside.name} beside it (No such file): write it again")
    try:
        content = read_object(beside)
    except Unreadable as error:
        raise InputError(f"{error}: write {path.name} again") from None
    if set(content) != {field.name for field in fields(Manifest)} or content["format"] not in FORMATS:
        raise InputError(f"{beside} is not a manifest of the format {FORMAT!r}: write {path.name} again")
    for field in fields(Manifest):
        if not _fits(content[field.name], KINDS.get(field.name, (str,))):
            shown = ascii(content[field.name])[:40]
            raise InputError(f"{beside} is damaged: {field.name} is {shown}: write {path.name} again")
    return Manifest(**content)


def _fits(value: object, kinds: tuple[type, ...]) -> bool:
    number = isinstance(value, int | float) and (isinstance(value, bool) or value < 0)
    return isinstance(value, kinds) and not number


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Atomically, beside the .beton at `path`. Raises OSError."""
    with whole_or_absent(manifest_path(path)) as handle:
        handle.write((json.dumps(asdict(manifest), indent=2) + "\n").encode())
