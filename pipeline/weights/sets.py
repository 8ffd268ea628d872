"""The sets of weights that a file holds, under which name, and which of them are those of a network.

What people's tools write differs in containers ({"net": ...}, {"state": {"model": ...}}), prefixes (Lightning's
`model.`, `backbone.`) and wrappers; the network's own names tell what is meant.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.weights.fit import is_counter
from pipeline.weights.values import oddity, plain

# DataParallel, DDP and AveragedModel; torch.compile; FSDP; activation checkpointing. They stand at any depth.
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
NOTES = frozenset(("total_ops", "total_params", "n_averaged"))  # of thop, and of AveragedModel
AVERAGED = frozenset(("ema", "swa", "avg", "averaged", "average", "shadow", "polyak"))
PREDICTOR = "predictor"  # in our student files: what a method adds to inference
PARTS = frozenset(("student", "teacher"))
DEPTH = 8  # containers in containers
MOST = 10_000_000  # entries of a file that are looked at: a history of each step's loss has a million
MOST_CONTAINERS = 200_000  # optimisers have one for each parameter


class Held(NamedTuple):
    """Weights that stand together. place: the entries that lead to them, then the components of their prefix; entries:
    how many of them are entries."""

    place: tuple[str, ...]
    state: dict[str, Tensor]
    entries: int

    @property
    def name(self) -> str:
        """As keys and messages call them."""
        return ".".join(self.place)

    @property
    def averaged(self) -> bool:
        """Whether the name says that these are averages over the training."""
        return bool(AVERAGED & words_in(self.place))

    def is_part(self, part: str) -> bool:
        """Whether the name says that these are the student's, or the teacher's."""
        return part in words_in(self.place)


class TooMuch(ValueError):
    """A file holds more entries than any checkpoint."""


def words_in(names: Iterable[str]) -> set[str]:
    """The words of names: model_ema, modelEMA and ema.model have `ema`."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", " ".join(names))}


def held_in(raw: Any) -> list[Held]:
    """Every mapping in `raw` that has tensors as values, by itself or in further mappings and lists. Raises TooMuch."""
    found, looked_at = [], 0
    level: list[tuple[tuple[str, ...], Any]] = [((), raw if isinstance(raw, Mapping | list | tuple) else ())]
    for _ in range(DEPTH):
        below: list[tuple[tuple[str, ...], Any]] = []
        for place, content in level:
            entries = list(content.items() if isinstance(content, Mapping) else enumerate(content))
            looked_at += len(entries)
            if looked_at > MOST or len(below) > MOST_CONTAINERS:
                raise TooMuch
            state = {str(key): plain(value) for key, value in entries if isinstance(value, Tensor)}
            if state and isinstance(content, Mapping):
                found.append(Held(place, state, len(place)))
            below += [
                ((*place, str(key)), inner) for key, inner in entries if isinstance(inner, Mapping | list | tuple)
            ]
        level = below
    return found


def fitting(held: Iterable[Held], forms: Sequence[Collection[str]]) -> list[Held]:
    """The sets that have all names of one of the `forms` of a network (counters of batch norms aside), by prefix.

    A set keeps what else stands under its prefix, unless that is a set of its own.
    """
    known = frozenset().union(*forms)
    wanted = [frozenset(name for name in form if not is_counter(name)) for form in forms]
    least = min(map(len, wanted))
    found = []
    for place, state, entries in held:
        if len(state) < least:
            continue
        state = tidied(state, known)
        prefixes = [
            prefix
            for prefix, names in _by_prefix(state, known).items()
            if any(form and form <= names for form in wanted)
        ]
        for prefix in prefixes:
            inner = [other for other in prefixes if other != prefix and other.startswith(prefix)]
            found.append(Held((*place, *prefix.split(".")[:-1]), _under(prefix, state, inner, known), entries))
    own = [one for one in found if one.place[-1:] != (PREDICTOR,)]
    return own or found


def split(held: Iterable[Held], forms: Sequence[Collection[str]]) -> list[Held]:
    """The sets that have one of the `forms` under two prefixes: OpenMMLab's `backbone.` and `head.`.

    Nothing else may stand there, and no name may tell student and teacher, or averages, apart: halves of two networks
    are none.
    """
    known = frozenset().union(*forms)
    found = []
    for one in held:
        state = tidied(one.state, known)
        names = {key: next((name for name in _endings(key) if name in known), "") for key in state}
        prefixes = {key[: len(key) - len(name)] for key, name in names.items()}
        whole = Held(one.place, {names[key]: value for key, value in state.items()}, one.entries)
        apart = (PARTS | AVERAGED) & words_in(prefixes)
        if len(prefixes) == 2 and not apart and len(whole.state) == len(state) and exact(whole, forms):
            found.append(whole)
    return found


def exact(one: Held, forms: Sequence[Collection[str]]) -> bool:
    """Whether it has the names of one of the forms and no others, counters aside, and its shapes where it says some."""
    names = {name for name in one.state if not is_counter(name)}
    for form in forms:
        if names == {name for name in form if not is_counter(name)}:
            shapes = form if isinstance(form, Mapping) else {}
            if all(oddity(one.state[name]) or one.state[name].shape == shapes.get(name) for name in names & {*shapes}):
                return True
    return False


def nearest(state: Mapping[str, Tensor], forms: Sequence[Collection[str]]) -> tuple[dict[str, Tensor], int]:
    """What stands under the prefix under which most names of the network do, and how many those are."""
    known = frozenset().union(*forms)
    state = tidied(state, known)
    counts = {prefix: len(names) for prefix, names in _by_prefix(state, known).items()}
    # Equal counts: the shorter prefix.
    prefix = max(counts, key=lambda one: (counts[one], -len(one)), default="")
    return _under(prefix, state, [], known), counts.get(prefix, 0)


def tidied(state: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """`state` without bookkeeping of tools, and its names without wrappers; `known` names keep theirs."""
    components = {component for name in known for component in name.split(".")}
    notes, wrappers = NOTES - components, WRAPPERS - components
    kept = {key: value for key, value in state.items() if key.rpartition(".")[2] not in notes}
    plain = {".".join(part for part in key.split(".") if part not in wrappers): value for key, value in kept.items()}
    return plain if len(plain) == len(kept) and "" not in plain else kept


def without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` without wrappers that all its keys begin with."""
    while state:
        first = next(iter(state)).partition(".")[0]
        if first not in WRAPPERS or not all(key.startswith(f"{first}.") for key in state):
            break
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def equal(a: Held, b: Held) -> bool:
    """Whether both hold the same values."""
    return a.state.keys() == b.state.keys() and all(_same(a.state[key], b.state[key]) for key in a.state)


def _same(a: Tensor, b: Tensor) -> bool:
    if a is b:
        return True
    if oddity(a) or oddity(b) or a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(a, b))


def _by_prefix(state: Mapping[str, Tensor], known: Collection[str]) -> dict[str, set[str]]:
    """Names of the network by the prefix that they stand under."""
    found: dict[str, set[str]] = {}
    for key in state:
        for name in _endings(key):
            if name in known:
                found.setdefault(key[: len(key) - len(name)], set()).add(name)
    return found


def _endings(key: str) -> Iterator[str]:
    """'a.b.c', 'b.c', 'c'; of names that no network has, the shorter ones only."""
    parts = key.split(".")[-32:]
    yield from (".".join(parts[place:]) for place in range(len(parts)))


def _under(prefix: str, state: Mapping[str, Tensor], others: list[str], known: Collection[str]) -> dict[str, Tensor]:
    """What stands under `prefix`, without that under `others` and what our methods add to a network."""
    predictor = prefix + PREDICTOR + "."
    added = () if any(name.startswith(PREDICTOR + ".") for name in known) else (predictor,)
    left = (*others, *added)
    return {
        key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix) and not key.startswith(left)
    }


def parts_held(held: Iterable[Held], known: Collection[str]) -> set[str]:
    """Which of student and teacher the file tells apart."""
    components = {c for one in held for key in one.state for c in (*one.place, *key.split("."))}
    return set(PARTS & words_in(components - {c for name in known for c in name.split(".")}))
