"""Who computes which part of a teacher cache, and when a view's arrays are put together."""

from collections.abc import Callable, Iterator

from data_prep.cache_arrays import telling
from data_prep.cache_parts import Part, Work
from pipeline.contracts import NotWritten


def shares(work: Work, rank: int, ranks: int) -> Iterator[Part]:
    """Parts still to be done, those of this rank first, then what others have not begun; none twice at a time.

    A part is yielded under its lock: the caller writes it before it asks for the next.
    """
    for turn in range(ranks):
        mine = (rank + turn) % ranks
        for view in range(work.layout.views):
            parts = work.parts(view)
            a, b = mine * len(parts) // ranks, (mine + 1) * len(parts) // ranks
            for part in parts[a:b]:
                if not work.waits(part):
                    continue
                with work.lock(work.path(part).stem) as alone:
                    if alone and work.waits(part):
                        yield part
            _join_if_whole(work, view)


def _join_if_whole(work: Work, view: int) -> None:
    if work.left(view) or work.complete:
        return
    with work.lock(f"join-{view:05d}") as alone:
        if not alone or work.left(view):
            return
        try:
            with telling(work.folder):
                work.join(view)
        except FileNotFoundError as error:
            if not work.complete:  # by another writer, just now
                raise NotWritten(f"{error.filename} was removed while it was needed") from None


def settle(work: Work, wait: Callable[[], None]) -> bool:
    """Joins views whose parts are all there. True when every view is joined; calls `wait` where others still work."""
    for view in range(work.layout.views):
        _join_if_whole(work, view)
    done = work.complete or all(work.joined(view).is_file() for view in range(work.layout.views))
    if not done:
        wait()
    return done
