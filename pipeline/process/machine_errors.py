"""What a machine does to a run (memory, disk, files, workers, network), told from defects of ours by one line.

Errors of torch are known by their names and texts.
"""

import errno
import re
from collections.abc import Iterable

from pipeline.utils.atomic import disk_refuses, refusal

# Of the system, whoever meets them: nothing in the program could be better.
NAMES = """
ENOSPC EDQUOT EFBIG EROFS EIO ENXIO ENODEV ESTALE EMFILE ENFILE ENOMEM EAGAIN EACCES EPERM ENOLCK EREMOTEIO ENETDOWN
ENETUNREACH EHOSTUNREACH ECONNREFUSED ECONNRESET ECONNABORTED ETIMEDOUT EADDRINUSE EADDRNOTAVAIL ENOTCONN EPIPE EBUSY
ENOTEMPTY ETXTBSY ENAMETOOLONG ENOENT ENOTDIR EISDIR EEXIST ELOOP
"""
MACHINE = frozenset(getattr(errno, name) for name in NAMES.split() if hasattr(errno, name))
HINTS = {
    errno.EMFILE: " (raise the limit: ulimit -n)",
    errno.EAGAIN: " (no further process or thread: ulimit -u)",
    errno.ENOSPC: " (a full disk, or /dev/shm for what workers hand over)",
}
SHM = "no room in shared memory (/dev/shm) for what data workers hand over: enlarge it, or data.workers=0"
WORKER = r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) "
DEATHS = (
    (WORKER + "is killed by signal: Bus error", f"data worker \\1 was killed: {SHM}"),
    (WORKER + r"is killed by signal: ([\w ]+)", "data worker \\1 was killed: \\2 (out of memory?)"),
    (WORKER + "exited unexpectedly", "data worker \\1 ended unexpectedly"),
)
TEXTS = (
    *DEATHS,
    (r"unable to (?:allocate|mmap|resize|open|write).{0,40}shared memory|unable to \w+ .*torch_", SHM),
    (r"received 0 items of ancdata|Too many open files", "too many open files (raise the limit: ulimit -n)"),
    (r"can't start new thread", "no further thread can be started (ulimit -u, memory)"),
    (r"a CUDA graph could not be captured, and.*", r"\g<0>"),
    (r"can't allocate memory|not enough memory|[Oo]ut of memory|Cannot allocate memory|bad_alloc", "out of memory"),
)
GROUP = re.compile(
    r"gloo/|Connection (?:closed|reset) by peer|NCCL|ncclRemote|ProcessGroup|process group|rendezvous|TCPStore|"
    r"Socket (?:Timeout|Error)|Broken pipe|store->|wait timeout|Timed out waiting"
)


def _own_line(error: BaseException) -> str:
    """What the error says; of one that a worker hands over, its last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Original Traceback" in str(error) else lines[0]


def is_of_group(error: BaseException) -> bool:
    """Whether it only says that another rank, or the network to it, is gone."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "DistError" in names:
        return True
    return type(error) is RuntimeError and GROUP.search(str(error)) is not None


def of_group_text(error: BaseException) -> str:
    """What such an error says, without the library's file names and advice."""
    return re.sub(r"^\[[^\]]*\] ", "", _own_line(error)).partition(". This is typically")[0]


def worker_death(error: BaseException | None) -> str | None:
    """One line for an error that comes of a data worker's death; None for others.

    torch raises it in whatever the trainer does as the worker dies, and others hand it on as an error of their own.
    """
    while error is not None:
        if type(error) is RuntimeError and (said := _first(DEATHS, error)):
            return said
        error = error.__cause__ or error.__context__
    return None


def _first(texts: Iterable[tuple[str, str]], error: BaseException) -> str | None:
    found = ((re.search(pattern, str(error)), text) for pattern, text in texts)
    return next((match.expand(text) for match, text in found if match), None)


def known(error: BaseException) -> str | None:
    """One line for what the machine did; None for what may be a defect of ours."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = _own_line(error)
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return "out of memory" if said == "MemoryError" else f"out of memory: {said.removeprefix('MemoryError: ')}"
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, RuntimeError):
        return _first(TEXTS, error)
    return None


def _of_system(error: OSError) -> str | None:
    if error.errno is None:  # wrapped by a worker
        said = _own_line(error)
        return said.partition("] ")[2] or said
    if disk_refuses(error):
        return refusal(error) + HINTS.get(error.errno, "")
    if error.errno not in MACHINE:
        return None
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{error.strerror}{HINTS.get(error.errno, '')}" + (f": {' -> '.join(names)}" if names else "")
