"""The known name that somebody probably meant. A leaf that anything may import."""

import difflib

MOST_ENDS = 3
LONGEST = 100  # characters that are compared; the cost grows with their square


def nearest(name: str, known: list[str]) -> str | None:
    """The most similar known name, of equals the one that begins alike; None when nothing is close."""
    wanted = name[:LONGEST].lower()
    close = difflib.get_close_matches(wanted, known, n=len(known) or 1, cutoff=0.5)
    if not close:
        return None

    def likeness(candidate: str) -> tuple[float, int]:
        match = difflib.SequenceMatcher(None, candidate, wanted)
        first = match.get_matching_blocks()[0]
        return match.ratio(), first.size if first.a == first.b == 0 else 0

    return max(close, key=likeness)


def hint(name: str, known: list[str]) -> str:
    """'; did you mean 'X'?' for the nearest known name, '' when nothing is close."""
    close = nearest(name, known)
    return f"; did you mean {close!r}?" if close and close != name else ""


def hint_key(name: str, known: list[str]) -> str:
    """`hint` for a dotted key: those that end in `name` come first, which lacks its section then."""
    ends = [one for one in known if one.lower().endswith(f".{name.lower()}")]
    return f"; did you mean {' or '.join(map(repr, ends[:MOST_ENDS]))}?" if ends else hint(name, known)


def short(name: object) -> str:
    """repr of `name`, cut where it is long: for messages."""
    text = str(name)
    return repr(text if len(text) <= LONGEST else text[: LONGEST - 3] + "...")
