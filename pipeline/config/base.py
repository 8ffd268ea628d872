"""What all sections of keys are made of."""

import os
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

NAME_BYTES = 240  # of a file's name; systems take 255, and run.resume=never adds .old-N
PATH_BYTES = 4000  # systems take 4,096
LONGEST = 10_000  # characters of a text
OF_BYTES = "; divide values of 0..255 by 255"
Rgb = tuple[float, float, float]
NEVER = 10**9  # of counts without a limit of their own
UNSAID = object()
Affects = Literal["numbers", "pixels", "speed", "place", "log"]


class Home:
    """Marks texts that are paths: `~` at their beginning is the user's home (see `by_type`)."""


def _text(value: str) -> str:
    if not value:
        raise ValueError("is empty: leave the key out, or give a text")
    if "\0" in value:
        raise ValueError("holds a NUL character")
    if len(value) > LONGEST:
        raise ValueError(f"is longer than {LONGEST:,} characters")
    return value


def at_home(value: str) -> str:
    """A path with the user's home for its leading `~` (or another's for ~name)."""
    # Path.expanduser raises for a user that there is not.
    return os.path.expanduser(value) if value.startswith("~") else value  # noqa: PTH111


def _path(value: str) -> str:
    value = at_home(value)
    parts = value.encode(errors="surrogateescape").split(b"/")
    if len(value.encode(errors="surrogateescape")) > PATH_BYTES or max(map(len, parts)) > 255:
        raise ValueError("is too long for a path (255 bytes between slashes, 4,000 in all)")
    return value


def _below(value: str) -> str:
    """A name that cannot leave the folder it is put in."""
    parts = value.split("/")
    if value.startswith("/"):
        raise ValueError(f"{value!r} is no name below run.dir: it begins with a slash")
    if ".." in parts or parts[0] == "~" or not {*parts} - {"", "."}:
        raise ValueError(f"{value!r} is no name below run.dir")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in value):
        raise ValueError(f"{value!r} holds a line break or another control character")
    if len(value.encode()) > PATH_BYTES // 4 or any(len(part.encode()) > NAME_BYTES for part in parts):
        raise ValueError(f"is too long for a name ({NAME_BYTES} bytes between slashes)")
    return value


def _means(value: Rgb) -> Rgb:
    # A mean of 0..255 would train, on images that are all but black.
    if not 0 <= min(value) <= max(value) <= 1:
        raise ValueError(f"mean must lie in 0..1, as pixels do{OF_BYTES if max(value) > 1 else ''}")
    return value


def _deviations(value: Rgb) -> Rgb:
    if min(value) <= 0:
        raise ValueError("std must be positive")
    if min(value) < 1e-3 or max(value) > 10:
        raise ValueError(f"std must lie in 0.001..10, for pixels in 0..1{OF_BYTES if max(value) > 10 else ''}")
    return value


# A text is what was written: 007, 1e3 and off are no numbers and no truth values (see `by_type`).
Text = Annotated[str, AfterValidator(_text)]
PathText = Annotated[Text, AfterValidator(_path), Home()]
RunName = Annotated[Text, AfterValidator(_below)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Side = Annotated[int, Field(ge=1, le=8192)]  # pixels
Means = Annotated[Rgb, AfterValidator(_means)]
Deviations = Annotated[Rgb, AfterValidator(_deviations)]


def at_once(value: Any) -> Any:
    """auto as 0, off (YAML's false) as 1."""
    words = {"auto": 0, "off": 1, False: 1}
    return words.get(value, value) if isinstance(value, str | bool) else value


AtOnce = Annotated[int, BeforeValidator(at_once)]


def key(
    default: Any,
    text: str,
    *,
    affects: Affects,
    in_fingerprint: bool | None = None,
    before: Any = UNSAID,
    **limits: Any,
) -> Any:
    """A field with its default, its help text, its limits, and what it affects. What follows from that is asked of the
    schema (affects.py): fingerprints, what a teacher cache is of, which runs are one cell.

    affects: the first that holds. pixels: what the views of a training image show, so that a teacher cache is of them;
    numbers: what is trained, evaluated, measured or written otherwise, beyond rounding; place: where files lie, what
    they are called, which machine; speed: time and memory; log: what is shown and noted, and how often.
    in_fingerprint: whether runs that differ in it are different runs; default: of numbers and pixels. False where a run
    may go on otherwise all the same: on another machine, for longer, in smaller slices. True for one place: it has
    stood in all hashes there are.
    before: of a key that came later: what runs did that do not know it. Its default stays out of hashes.
    """
    numbers = affects in ("numbers", "pixels")
    extra: dict[str, Any] = {
        "affects": affects,
        "in_fingerprint": numbers if in_fingerprint is None else in_fingerprint,
    }
    extra |= {} if before is UNSAID else {"before": before}
    return Field(default, description=text, json_schema_extra=extra, **limits)


class Section(BaseModel):
    """Frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
