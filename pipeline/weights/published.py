"""Published teachers: which releases hold what (configs/teachers.yaml), and where their files lie on this machine."""

import functools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.contracts import InputError
from pipeline.utils.commands import as_typed
from pipeline.utils.places import CONFIGS
from pipeline.utils.plain_yaml import Node, Plain, YamlFault, read, shown
from pipeline.utils.suggest import hint

TABLE = CONFIGS / "teachers.yaml"
RUN_FILE = "student.safetensors"
FETCH = as_typed("python data_prep/fetch_teachers.py")

_FILE = {"file": str, "sha256": str, "holds": {None: str}, "unpack": str}
_RELEASE = {"dataset": str, "page": str, "licence": str, "base": str, "files": [_FILE]}
TABLE_FORM: dict[str, Any] = {
    "releases": {None: _RELEASE},
    "spellings": {None: str},
    "folders": {None: [str]},
    "instead": {None: str},
}
NEEDED = {"releases", "dataset", "page", "licence", "files", "file", "sha256", "holds"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One file of a release. file: its address below Release.base; holds: network -> file below the chosen folder.

    sha256: of the published file, hex, None where it is not known; unpack: folder that an archive's members go to, None
    for a file that is itself the checkpoint.
    """

    file: str
    sha256: str | None
    holds: Mapping[str, str]
    unpack: str | None = None


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a project published. base: address that all files have in common, ending in '/'; licence: of the weights."""

    name: str
    dataset: str
    page: str
    licence: str
    base: str = ""
    files: tuple[Published, ...] = ()

    @property
    def networks(self) -> dict[str, str]:
        """File below the chosen folder by network, as its folder spells it."""
        return {name: path for file in self.files for name, path in file.holds.items()}


@functools.cache
def _table() -> dict[str, Any]:
    """configs/teachers.yaml, all of it text. Raises InputError for what is not as it should be."""
    try:
        tree = read(TABLE)
    except YamlFault as error:
        raise InputError(str(error)) from None
    problems = _faults(tree, TABLE_FORM, TABLE.name)
    if problems:
        raise InputError("; ".join(problems[:20]))
    return {**{name: {} for name in TABLE_FORM}, **_plain(tree)}


def _faults(tree: Node, form: Any, where: str) -> list[str]:
    """What is wrong with a part of the table. form: its words, or how all of its words look ({None: form}), a list's
    entries ([form]), or a text (str)."""
    if isinstance(form, list):
        if not isinstance(tree, list):
            return [f"{where}: {shown(tree, 100)} is no list"]
        return [fault for i, one in enumerate(tree) for fault in _faults(one, form[0], f"{where}[{i}]")]
    if form is str:
        return [] if isinstance(tree, str) else [f"{where}: {shown(tree, 100)} is no text"]
    if not isinstance(tree, dict):
        return [f"{where}: {shown(tree, 100)} is no mapping"]
    found = []
    for name, value in tree.items():
        if None not in form and name not in form:
            found.append(f"{where}: unknown word {shown(name, 100)!r}{hint(name, list(form))}")
        else:
            found += _faults(value, form.get(name, form.get(None)), f"{where}: {shown(name, 100)}")
    return found + [f"{where}: {name}: is missing" for name in sorted(NEEDED.intersection(form) - tree.keys())]


def _plain(tree: Node) -> Any:
    """The table's text, with null as None."""
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_plain(one) for one in tree]
    return None if isinstance(tree, Plain) and tree in ("null", "~", "") else str(tree)


def releases() -> dict[str, Release]:
    """All known releases by name."""
    return {
        name: Release(**{**row, "name": name, "files": tuple(Published(**file) for file in row["files"])})
        for name, row in _table()["releases"].items()
    }


def find_checkpoint(model: str, dataset: str, root: Path) -> Path:
    """Weights of `model` for `dataset` below `root`, as RepDistiller, SimKD, mdistiller, R2KD or our runs lay them out.

    model: a registered name (cifar/resnet50) or a published one (ResNet50). Published weights come first, then own runs
    (<dataset>/vanilla/<model>/seed*, lowest seed). Raises InputError that says what is expected, where, and how to get
    it.
    """
    root = root.expanduser()
    try:
        found = next(_candidates(model, dataset, root), None)
    except OSError as error:
        raise InputError(f"{error.filename or root} cannot be read: {error.strerror}") from None
    if found is None:
        raise InputError(_advice(model, dataset, root))
    return found


def spelled(model: str, published: str) -> bool:
    """Whether `published` is how projects write the network `model` (a registered name, or a published one)."""
    if "/" in published:
        return model.lower() == published.lower()
    exact = _table()["spellings"]
    wanted = exact.get(model.lower() if "/" in model else model, model if model in exact.values() else None)
    if wanted or published in exact.values():
        return bool(wanted == published)
    return model.rpartition("/")[2].lower() == published.lower()


def _serving(model: str, dataset: str) -> Iterator[tuple[Release, str]]:
    """(release, file below the chosen folder) that hold the network, of the data set or of the network's own prefix."""
    for release in releases().values():
        if release.dataset in (dataset, model.partition("/")[0]):
            yield from ((release, path) for name, path in release.networks.items() if spelled(model, name))


def published_licence(model: str, dataset: str) -> str | None:
    """What the release that holds `model` for `dataset` says of its weights' licence; None where none holds it."""
    return next((release.licence for release, _ in _serving(model, dataset)), None)


def _candidates(model: str, dataset: str, root: Path) -> Iterator[Path]:
    for _, path in _serving(model, dataset):
        places = (root / path, Path(torch.hub.get_dir()) / "checkpoints" / path)
        yield from (place for place in places if place.is_file())
    for folder in (*_table()["folders"].get(dataset, ()), dataset, "."):
        yield from _in_folder(root / folder, model, dataset)
    for folder in ("runs", "."):
        runs = (root / folder / dataset / "vanilla" / re.sub("[/:]", "-", model)).glob(f"seed*/{RUN_FILE}")
        yield from sorted(runs, key=lambda path: _number(path.parent.name))


def _in_folder(folder: Path, model: str, dataset: str) -> Iterator[Path]:
    """`<name>_vanilla/...` and `<name>_best.pth` in one folder. Names come from the disk, as some disks ignore case."""
    if not folder.is_dir():
        return
    names, of = sorted(entry.name for entry in folder.iterdir()), re.escape(dataset)
    for name in names:
        part = re.fullmatch(rf"(.+?)_(vanilla(_{of}_.*)?|{of}_.*)", name, re.IGNORECASE)
        if part and spelled(model, part[1]) and (folder / name).is_dir():
            yield from _files(folder / name, model)
    yield from _named(folder, names, model)


def _files(folder: Path, model: str) -> Iterator[Path]:
    """Checkpoints in a folder of one network: last periodic one, best, last, or whatever its only file is."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file())
    periodic = [name for name in names if re.fullmatch(r"ckpt_epoch_\d+\.pth", name)]
    yield from (folder / name for name in sorted(periodic, key=_number, reverse=True))
    yield from _named(folder, names, model)
    if len(names) == 1:
        yield folder / names[0]


def _named(folder: Path, names: list[str], model: str) -> Iterator[Path]:
    for ending in ("_best.pth", "_last.pth"):
        yield from (folder / n for n in names if n.endswith(ending) and spelled(model, n.removesuffix(ending)))


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits[0]) if digits else 0


def _advice(model: str, dataset: str, root: Path) -> str:
    nothing = f"no weights of {model} for {dataset} below {root}"
    for release, path in _serving(model, dataset):
        expected = f"{root / path} of release {release.name}"
        return f"{nothing}: expected {expected}; {FETCH} release={release.name} out={shlex.quote(str(root))}"
    here = [release for release in releases().values() if release.dataset == dataset]
    known = sorted({name for release in here for name in release.networks})
    published = f"published are {', '.join(known)}" if known else "none are published"
    instead = _table()["instead"].get(dataset, f"train them: method=vanilla dataset={dataset} model={model}")
    return f"{nothing}, and no known release holds them ({published}); give a file or run folder, or {instead}"
