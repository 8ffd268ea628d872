"""Whether two configurations train the same numbers, when one of them is of another version of this program."""

from collections.abc import Mapping
from typing import Any, get_origin

from pipeline.config import TrainConfig, flatten
from pipeline.config.affects import fields_of
from pipeline.run_folder.earlier_defaults import EARLIER, WAS_DEFAULT

# Keys that hold keys of one's own.
FREE = tuple(name for name, field in fields_of(TrainConfig).items() if get_origin(field.annotation) is dict)


def differences(there: Mapping[str, Any], here: TrainConfig) -> list[str]:
    """'key value there, value here' for each key that changes numbers. there: dotted keys of the earlier run.

    A key that the earlier run does not know has the value that it had before there was a key.
    """
    mine, numbers = flatten(here.model_dump(mode="json")), flatten(here.numbers())
    free = {key for key in [*there, *mine] if key.startswith(tuple(f"{name}." for name in FREE))}
    keys = [key for key in dict.fromkeys((*numbers, *sorted(free))) if key not in ("pair", *FREE)]
    before = flatten(TrainConfig(dataset=here.dataset).model_dump(mode="json")) | EARLIER
    found = []
    for key in keys:
        known = key in there or (key in free and key not in EARLIER)
        a, b = there.get(key) if known else before.get(key), mine.get(key)
        # Which of two defaults a run trains by is in its checkpoint (formulas.py).
        either = key == "variant" and "default" in (a, b) and WAS_DEFAULT.get(here.method) in (a, b)
        if a != b and not either:
            hint = "" if known else f" (before there was the key; give {key}={a} to go on)"
            found.append(f"{key} {a} there, {b} here{hint}")
    return found
