"""The file beside a .beton: what was written, from what, and how to see that it is still whole."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pipeline.contracts import InputError
from pipeline.files import whole_or_absent

FORMAT = "stillhouse beton 1"


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


def manifest_path(path: Path) -> Path:
    """F.beton.json of F.beton."""
    return path.with_name(path.name + ".json")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the .beton at `path`. Raises InputError."""
    beside = manifest_path(path)
    try:
        content = json.loads(beside.read_text())
    except OSError as error:
        raise InputError(f"{path} has no readable {beside.name} beside it ({error.strerror}): write it again") from None
    except ValueError:
        raise InputError(f"{beside} is damaged: write {path.name} again") from None
    known = {field.name for field in fields(Manifest)}
    if not isinstance(content, dict) or set(content) != known or content["format"] != FORMAT:
        raise InputError(f"{beside} is not a manifest of the format {FORMAT!r}: write {path.name} again")
    return Manifest(**content)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Atomically, beside the .beton at `path`. Raises OSError."""
    with whole_or_absent(manifest_path(path)) as handle:
        handle.write((json.dumps(asdict(manifest), indent=2) + "\n").encode())
