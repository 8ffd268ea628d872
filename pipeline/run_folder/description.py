"""What a trained network's file says of itself, so that it predicts right wherever it lies.

It stands in student.safetensors, in checkpoints, in exported files and in the run folder. Whoever reads weights takes
network, classes, pixels and method from it; keys of the command line win.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.config.base import Rgb, Section
from pipeline.contracts import InputError
from pipeline.utils.untrusted_files import Unreadable, parse_json

FORMAT = 1
NAME = "description"  # of the entry in a checkpoint, and in the origin that a file of tensors has
FILE = "description.json"  # in the run folder
SHOWN = 3
Pixels = Annotated[int, Field(ge=1)]


class Sight(Section):
    """How the network looks at images: keys of data.* and how images are resized."""

    mean: Rgb
    std: Rgb
    image_size: Pixels
    eval_image_size: Pixels | None
    crop: Literal["pad", "window", "none"]
    resize: Pixels | None
    eval_flip: bool
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @model_validator(mode="after")
    def _ranges(self) -> "Sight":
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def test_size(self) -> int:
        """Pixels of a side in evaluation."""
        return self.eval_image_size or self.image_size


class Predictor(Section):
    """method: the part of the run's method that predicts; module: its place in a checkpoint's `distiller`."""

    method: str
    module: str


class Description(Section):
    """method_args: all hyper-parameters of the method, those of a combination by its parts. predictor: None where the
    network predicts by itself. class_names: by label, () where they are not known."""

    format: Literal[1] = 1
    dataset: str
    networks: Literal["cifar", "tiny", "imagenet"]
    model: str
    block: str | None
    args: dict[str, Any]
    num_classes: Annotated[int, Field(ge=1)]
    class_names: tuple[str, ...]
    data: Sight
    method: str | None
    variant: str
    method_args: dict[str, Any]
    predictor: Predictor | None

    @model_validator(mode="after")
    def _names(self) -> "Description":
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} names of {self.num_classes} classes")
        return self

    def plain(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return self.model_dump(mode="json")

    def keys(self) -> dict[str, Any]:
        """The same as dotted keys of a configuration."""
        data = {f"data.{name}": value for name, value in self.data.model_dump(mode="json").items()}
        data.pop("data.interpolation")
        own: dict[str, Any] = {"dataset": self.dataset, "networks": self.networks}
        own |= {"student.model": self.model, "student.block": self.block}
        return own | {f"student.args.{name}": value for name, value in self.args.items()} | data


def parse(found: Any, source: str) -> Description:
    """`found` (JSON, a text of it or what it holds) as a Description. Raises InputError, one line: damaged, newer."""
    if isinstance(found, str | bytes):
        try:
            found = parse_json(found, source)
        except Unreadable as error:
            raise InputError(f"{error}") from None
    if not isinstance(found, Mapping):
        raise InputError(f"{source} is damaged: the description is no mapping")
    other = found.get("format")
    if isinstance(other, int) and other > FORMAT:
        raise InputError(f"{source} has a description of format {other}, this version reads {FORMAT}: use a newer one")
    try:
        return Description.model_validate_json(json.dumps(found), strict=True)
    except (ValidationError, TypeError, ValueError, RecursionError) as error:
        first: Mapping[str, Any] = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else {}
        where = ".".join(map(str, first.get("loc", ()))) or "description"
        reason = " ".join(str(first.get("msg", error)).split())
        raise InputError(f"{source} is damaged: {where}: {reason}") from None


def printable(names: Iterable[str]) -> tuple[str, ...]:
    """Names as text that any file can hold: bytes of a folder's name that are no UTF-8 are escaped."""
    return tuple(name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names)


def classes_text(there: tuple[str, ...], here: tuple[str, ...]) -> str | None:
    """How the classes of a file differ from those of a data set with as many, None where they do not."""
    other = [k for k, (one, two) in enumerate(zip(there, here, strict=False)) if one != two]
    if not there or not here or not other:
        return None
    shown = ", ".join(f"{k} is {there[k]!r} there, {here[k]!r} here" for k in other[:SHOWN])
    return shown + (", ..." if len(other) > SHOWN else "")


def check_classes(there: tuple[str, ...], here: tuple[str, ...], source: str) -> str | None:
    """A warning where a file's classes have other names than the data set's. Raises InputError where they have the
    same ones in another order: then every label would be wrong."""
    told = classes_text(there, printable(here))
    if told is None:
        return None
    if sorted(there) == sorted(printable(here)):
        raise InputError(f"{source} has the data set's classes in another order ({told})")
    return f"warning: {source} has other class names than the data set ({told})"
