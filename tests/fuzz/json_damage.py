"""Ways to spoil a JSON document, or any small file, as bytes."""

import copy
import json
import random
from typing import Any

from fuzzing import cut, flipped

STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**12, 10**18, -(10**18), 0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "../../x", "/etc/passwd", "a\nb", "\0", "\x1b[31m", "\ud800", "n" * 5000, "1", "done", "ö"),
    *([], {}, [[]], [None], {"a": 1}, {"": None}, [1, "2", {}], {"bytes": 1, "sha256": "0" * 64}),
]
WHOLE = [
    *(b"", b"[]", b"{}", b"3", b"null", b'"x"', b"\xff\xfe", b"{", b"[" * 100_000, b'{"a":' * 5000, b"1" * 5000),
    *(b"NaN", b'"\\ud800"', b"\0" * 100, b"\xef\xbb\xbf{}", b"{} {}"),
]


def damaged(content: Any, rng: random.Random) -> bytes:
    """`content` as JSON after one or two changes."""
    if rng.random() < 0.15:
        return rng.choice(WHOLE)
    changed = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 2))):
        changed = _changed(changed, rng)
    text = json.dumps(changed).encode()
    if rng.random() < 0.1:
        text = cut(text, rng)
    return flipped(text, rng) if rng.random() < 0.1 else text


def _changed(content: Any, rng: random.Random) -> Any:
    places = list(_places(content))
    if not places:
        return rng.choice(STRANGE)
    holder, name = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0:
        del holder[name]
    elif kind == 1 and isinstance(holder, dict):
        holder[str(rng.choice(["", "x", "/etc/passwd", "../../x", "n" * 3000, "\0", name]))] = rng.choice(STRANGE)
    elif kind == 2 and isinstance(holder[name], int) and not isinstance(holder[name], bool):
        holder[name] = rng.choice([holder[name] + 1, -holder[name], holder[name] * 10**9, 10**400, str(holder[name])])
    else:
        holder[name] = rng.choice(STRANGE)
    return content


def _places(content: Any) -> Any:
    """(holder, key) of everything below."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in list(entries):
        yield content, name
        yield from _places(value)
