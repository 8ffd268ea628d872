"""Which of the sets of weights in a file are taken: those asked for, or the ones that are meant without doubt."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from pipeline.contracts import InputError
from pipeline.weights.files import one_line, read, refuse
from pipeline.weights.fit import is_counter, some
from pipeline.weights.sets import (
    PARTS,
    PREDICTOR,
    Held,
    TooMuch,
    equal,
    exact,
    fitting,
    held_in,
    nearest,
    parts_held,
    split,
    tidied,
    without_wrappers,
)
from pipeline.weights.values import plain

Part = Literal["student", "teacher"]
Forms = Sequence[Collection[str]]
FIRST = ("model", "state_dict")  # of containers: taken before others, in this order
USUAL = (*FIRST, "model_state_dict", "model_state", "net", "network", "params", "weights", "state", "module")
AVERAGED, PLAIN = "ema", "plain"
OWN_AVERAGES = ("updater", "ema")
WHOLE = "the file itself"
LARGEST = 50  # sets that a reason is looked for in


class Wish(NamedTuple):
    """What is asked of a file. part: which network of a distiller that holds both; a file of one network is that one.

    weights: the name of a set in it, `ema` (averaged ones) or `plain` (others); None: averaged ones where there are
    some. key: under which the user says so.
    """

    part: Part = "student"
    weights: str | None = None
    key: str = "student.weights"


class Chosen(NamedTuple):
    """The state that a file is taken to hold. note: what a user should know of the choice, '' if nothing."""

    state: dict[str, Tensor]
    note: str


def choose(file: Path, wish: Wish, forms: Forms) -> Chosen:
    """The weights in `file` that a network with one of these `forms` (names of its state) loads, or the nearest ones.

    Without forms: what stands in the usual containers. Raises InputError: nothing there, or more than one set and no
    reason for one of them.
    """
    raw = read(file)
    if not isinstance(raw, Mapping | list | tuple):
        raise refuse(file, f"holds no weights but a {type(raw).__name__}")
    held = _of_ours(raw) or entries_of(file, raw)
    sets = (fitting(held, forms) or split(held, forms)) if forms else []
    asked = _asked_for(sets, wish.weights)
    asked = [one for one in asked if exact(one, forms)] or asked
    if wish.weights is not None and not asked:
        names = [one.name or WHOLE for one in sets or held]
        held = [one for one in held if _inside(one, wish.weights)]
        if not held:
            raise refuse(file, f"holds no {wish.key}={wish.weights} (but {some(names)})")
    pool = _of_part(asked, wish, parts_held(held, frozenset().union(*forms)))
    if not pool:
        return Chosen(_nearest_of(raw, held, wish, forms, file), "")
    best = _best(pool, wish, file)
    return Chosen(best.state, _note(file, best, sets, held, wish, forms))


def entries_of(file: str | Path, raw: Any) -> list[Held]:
    """All sets of tensors in what was read from `file`. Raises InputError."""
    try:
        return held_in(raw)
    except TooMuch:
        raise refuse(file, "holds more entries than any checkpoint") from None


def _of_ours(raw: Any) -> list[Held]:
    """The sets in a checkpoint of ours, [] for files of others: its other tensors are no weights of a network."""
    if not (isinstance(raw, Mapping) and all(isinstance(raw.get(key), Mapping) for key in ("model", "distiller"))):
        return []
    model = _tensors(raw["model"])
    updater = raw.get("updater")
    averages = updater if isinstance(updater, Mapping) else {}
    ema = averages.get("ema")
    # Weights that a method predicts with are averaged, too, under names of its own: best.pt of such a run has both.
    if isinstance(ema, Mapping) and ema and not averages.get("predictor_ema"):
        return [Held(("model",), model, 1), Held(OWN_AVERAGES, model | _tensors(ema), 2)]
    return [Held(("model",), model, 1)] if model else []


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): plain(value) for key, value in content.items() if isinstance(value, Tensor)}


def _asked_for(sets: list[Held], weights: str | None) -> list[Held]:
    if weights is None:
        return sets
    named = [one for one in sets if one.name == weights] or [one for one in sets if _inside(one, weights)]
    if named or weights not in (AVERAGED, PLAIN):
        return named
    return [one for one in sets if one.averaged == (weights == AVERAGED)]


def _inside(one: Held, weights: str) -> bool:
    """Whether all of `one`, or a part by its keys, stands under the name `weights`, or is called so last."""
    wanted = tuple(weights.split("."))
    size = len(wanted)
    if wanted in (one.place[:size], one.place[-size:]) or (weights == AVERAGED and one.averaged):
        return True
    return any(".".join((*one.place, key)).startswith(f"{weights}.") for key in one.state)


def _of_part(sets: list[Held], wish: Wish, held: set[str]) -> list[Held]:
    """Those of the part, where the file tells parts apart. A teacher that mdistiller trained by itself is the student
    of a distiller without teacher."""
    own = [one for one in sets if one.is_part(wish.part)]
    neither = [one for one in sets if not any(map(one.is_part, PARTS))]
    by_name = wish.weights not in (None, AVERAGED, PLAIN)
    return own or neither or ([] if held == PARTS and not by_name else sets)


def _best(pool: list[Held], wish: Wish, file: Path) -> Held:
    """The one set that is meant. Averaged ones come first, as timm loads and torchvision evaluates them; in our own
    checkpoints those that training goes on with, as ever: the averaged ones lie in best.pt and student.safetensors."""
    if all(equal(pool[0], one) for one in pool[1:]):
        return pool[0]
    averaged = [one for one in pool if one.averaged]
    if len(averaged) == 1 and averaged[0].place != OWN_AVERAGES:
        return averaged[0]
    first: list[list[Held]] = [[one for one in pool if one.entries and one.place[0] == name] for name in FIRST]
    first += [[one for one in pool if not one.place]]
    found = next(filter(None, first), [])
    if len(found) == 1:
        return found[0]
    names = some([one.name or WHOLE for one in pool])
    raise refuse(file, f"holds several weights of this network ({names}): {wish.key}=NAME chooses")


def _note(file: Path, best: Held, sets: list[Held], held: list[Held], wish: Wish, forms: Forms) -> str:
    others = [one for one in sets if one is not best and (exact(one, forms) or one.averaged) and not equal(one, best)]
    text = f"{file}: weights {best.name or WHOLE}"
    if others:
        names = some([one.name or WHOLE for one in others])
        text += f", not {names} ({wish.key}={others[0].name or PLAIN} takes those)"
    # Averages of the parameters alone are no whole set: said, so that nobody thinks that they are used.
    places = [one.place for one in sets]
    large = sorted(held, key=lambda one: -len(one.state))[:LARGEST]
    lacking = [one for one in large if one.averaged and not any(place[: one.entries] == one.place for place in places)]
    size = min(sum(not is_counter(name) for name in form) for form in forms)
    part = [one.name for one in lacking if 2 * nearest(one.state, forms)[1] >= size]
    if part:
        text += f"; {part[0]} holds a part of the network only"
    return one_line(text) if others or part else ""


def _nearest_of(raw: Any, held: list[Held], wish: Wish, forms: Forms, file: Path) -> dict[str, Tensor]:
    """The state that comes nearest, for a refusal that says what differs, or for a reader without a network."""
    known = frozenset().union(*forms)
    large = sorted(held, key=lambda one: -len(one.state))[:LARGEST]
    names = [nearest(one.state, forms)[1] if forms else 0 for one in large]
    usual = sorted((one for one in held if _is_usual(one, raw)), key=_rank)
    if usual:
        best = usual[0]
    elif any(names):
        best = large[names.index(max(names))]
    else:
        raise _nothing(raw, file)
    state = without_wrappers(tidied(best.state, known))
    parts = [part for part in sorted(PARTS) if any(key.startswith(f"{part}.") for key in state)]
    if parts:
        prefix = f"{wish.part}." if len(parts) > 1 else f"{parts[0]}."
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    state = without_wrappers({key: value for key, value in state.items() if not key.startswith(f"{PREDICTOR}.")})
    if not state:
        raise _nothing(raw, file)
    return nearest(state, forms)[0] if forms else state


def _rank(one: Held) -> tuple[int, int]:
    return (USUAL.index(one.place[0]) if one.place else len(USUAL), len(one.place))


def _is_usual(one: Held, raw: Any) -> bool:
    """Whether it stands where weights usually do, in a known container or alone, and with tensors only."""
    if one.place and one.place[0] not in USUAL:
        return False
    content = raw
    for name in one.place:
        content = content.get(name) if isinstance(content, Mapping) else None
    return isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())


def _nothing(raw: Any, file: Path) -> InputError:
    keys = some(map(str, raw)) if isinstance(raw, Mapping) else f"none, a {type(raw).__name__}"
    return refuse(file, f"holds no state dict (top-level keys: {keys})")
