"""One process trains in a folder: a lock that ends with the process, however it ends."""

import contextlib
import fcntl
import os
import weakref
from pathlib import Path
from typing import TextIO

from pipeline.contracts import InputError, unwritten

NAME = ".lock"
ATTEMPTS = 100
_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


class FolderLock:
    """The lock of `folder`. handed_on: forked processes hold it, too (seeds side by side); else they let go of it: a
    worker that outlives its trainer must not keep the next one out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.handed_on = False
        self._handle: TextIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._handle is not None

    def take(self) -> None:
        """Makes the folder and holds it. Raises InputError when another process does, and NotWritten."""
        for _ in range(ATTEMPTS):
            handle = self._open()
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.close()
                raise InputError(f"another process is training in {self.folder}") from None
            except OSError as error:
                handle.close()
                raise InputError(f"cannot lock the run folder {self.folder}: {error.strerror}") from None
            if self._is_there(handle):
                self._handle = handle
                _held.add(self)
                return
            handle.close()  # the folder was renamed between the two calls: that lock is of another run now
        raise InputError(f"another process renames {self.folder} again and again")

    def release(self) -> None:
        """Lets go; a folder with nothing of a run in it goes, too."""
        if self._handle is None:
            return
        with contextlib.suppress(OSError):
            if self._is_there(self._handle) and {path.name for path in self.folder.iterdir()} <= {NAME, "checkpoints"}:
                checkpoints = self.folder / "checkpoints"
                if not (checkpoints.is_dir() and any(checkpoints.iterdir())):
                    (self.folder / NAME).unlink()
                    checkpoints.rmdir()
                    self.folder.rmdir()
        self.forget()

    def forget(self) -> None:
        """Closes this process's handle."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _open(self) -> TextIO:
        path = self.folder / NAME
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is no plain file")
            return path.open("a")
        except OSError as error:
            raise unwritten(f"cannot write to the run folder {self.folder}", error) from None

    def _is_there(self, handle: TextIO) -> bool:
        try:
            return os.path.samestat(os.fstat(handle.fileno()), (self.folder / NAME).stat())
        except FileNotFoundError:
            return False


def _let_go() -> None:
    for lock in [*_held]:
        if not lock.handed_on:
            lock.forget()


os.register_at_fork(after_in_child=_let_go)
