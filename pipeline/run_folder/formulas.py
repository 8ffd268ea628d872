"""Which formula a run trains by, kept in its checkpoints: a later version that computes another one must not go on."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config import TrainConfig
from pipeline.contracts import Distiller
from pipeline.run_folder.earlier_defaults import WAS_DEFAULT

Formulas = dict[str, list[str]]


def formulas(distiller: Distiller, method: str) -> Formulas:
    """{method: [variant, how it differs from earlier versions ("" where it does not)]}, for each part of a combination.

    method: the registered name.
    """
    inner: Any = distiller.method if distiller.is_stage else distiller
    parts: Mapping[str, Distiller] = inner.combined or {method: inner}
    return {name: [part.variant, part.revised.get(part.variant, "")] for name, part in parts.items()}


def changed_formulas(state: Mapping[str, Any], distiller: Distiller, config: TrainConfig) -> Iterator[str]:
    """What the run of `state` computed otherwise than `distiller` does."""
    now = formulas(distiller, config.method)
    then = state.get("formulas", _earlier(now, config.variant))
    if not isinstance(then, dict) or then.keys() != now.keys():
        yield "formulas of other methods"
        return
    for name, (variant, how) in now.items():
        if then[name] == [variant, how]:
            continue
        kept = then[name] if isinstance(then[name], list) and len(then[name]) == 2 else ["?", "?"]
        if kept[0] != variant:
            yield f"{name} by variant {kept[0]!s:.40}, here {variant}"
        else:
            yield f"{name}'s variant {variant} of another version: it is now the {how or 'former one again'}"


def _earlier(now: Formulas, variant: str) -> Formulas:
    """What a version that kept no formulas trained by."""
    return {name: [WAS_DEFAULT.get(name, of) if variant == "default" else of, ""] for name, (of, _) in now.items()}
