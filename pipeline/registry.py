"""Decorator registries: a part announces itself by name, and an unknown name is answered with the nearest known one."""

import importlib
import pkgutil
import sys
from collections.abc import Callable
from typing import Generic, TypeVar

from pipeline.utils.suggest import hint, short

T = TypeVar("T")


class UnknownName(LookupError):
    """A name that no part registered. The message lists what is known and the nearest match."""


class Unregistered(ValueError):
    """A file of the package that cannot be taken: a name that another one has, or what is no Python."""


class Registry(Generic[T]):
    """Named constructors of one kind.

    All modules of `package` are imported at the first look-up, so that a new entry is a new file and no second edit.
    Names are matched without regard to case; `aliases` are accepted but not listed.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._entries: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._loaded = False

    def register(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Decorator that files the decorated object under `name` (and `aliases`). Raises Unregistered."""
        caller = sys._getframe(1)
        place = f"{caller.f_code.co_filename}, line {caller.f_lineno}"

        def file_under(entry: T) -> T:
            for key in (name.lower(), *(alias.lower() for alias in aliases)):
                if key in self._entries or key in self._aliases:
                    there = self._places[key]
                    raise Unregistered(f"{self.kind} {key!r} is registered twice: {there}, and {place}")
                self._places[key] = place
            self._entries[name.lower()] = entry
            self._aliases.update({alias.lower(): name.lower() for alias in aliases})
            return entry

        return file_under

    def _load(self) -> None:
        if not self._loaded:
            self._loaded = True
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                self._import(f"{self.package}.{module.name}")

    def _import(self, name: str) -> None:
        try:
            importlib.import_module(name)
        except SyntaxError as error:  # of this very file, or of one that it imports
            raise Unregistered(f"{error.filename}, line {error.lineno}: {error.msg}") from error

    def names(self) -> list[str]:
        """All registered names, sorted, without aliases."""
        self._load()
        return sorted(self._entries)

    def canonical(self, name: str) -> str:
        """The registered name that `name` (any case, or an alias) stands for. Raises UnknownName."""
        self._load()
        key = str(name).lower()
        key = self._aliases.get(key, key)
        if key not in self._entries:
            known = self.names()
            near = hint(key, known + sorted(self._aliases))
            raise UnknownName(f"unknown {self.kind} {short(name)}{near} (known: {', '.join(known)})")
        return key

    def get(self, name: str) -> T:
        """The object registered under `name` or an alias of it. Raises UnknownName."""
        return self._entries[self.canonical(name)]
