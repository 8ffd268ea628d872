"""Mean and sample standard deviation over seeds, for everything that shows them."""

import statistics
from collections.abc import Iterable

Spread = tuple[float, float | None]


def mean_std(values: Iterable[float | None]) -> Spread | None:
    """(mean, sample standard deviation; None for one value) of the values that are known; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None


def spread_text(spread: Spread | None, form: str = ".2f", *, sign: str = "±", nothing: str = "–") -> str:
    """'75.12 ± 0.20', the mean alone where there is no deviation, `nothing` for None. form: of each number."""
    if spread is None:
        return nothing
    mean, std = spread
    return f"{mean:{form}}" if std is None else f"{mean:{form}} {sign} {std:{form}}"
