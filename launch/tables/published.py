"""Figures of others: configs/published.yaml as typed tables, and the look-up of one cell."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.config import ConfigError, parts_of, read_yaml, validate
from pipeline.config.base import Section
from pipeline.config.layers import CONFIGS, find_pair
from pipeline.config.pairs import pair_networks, same_network
from pipeline.contracts import InputError
from pipeline.utils.suggest import hint

FILE = CONFIGS / "published.yaml"
ALONE = "vanilla"  # the method whose runs are compared with networks trained without a teacher
Percent = Annotated[float, Field(ge=0, le=100)]
Row = list[Percent | None]


class Source(Section):
    """Where figures stand. reports: the epoch they are of, None = not stated (`epoch` says what is known)."""

    title: str
    where: str
    reports: Literal["last", "best"] | None
    deviation: Literal["std", "none"]
    recipe: str
    epoch: str | None = None
    trials: int | None = None
    note: str | None = None


class Label(Section):
    """What a row means that is not named by its method; method None: no method here does this, `why` says so.

    Method vanilla: students trained alone, as the table's `student` row.
    """

    method: str | None
    method_args: dict[str, Any] = Field(default={})
    why: str | None = None


class Table(Section):
    """Rows by method or label, columns by pair; None = not published."""

    title: str
    source: str
    dataset: str
    pairs: list[str]
    top1: dict[str, Row]
    top5: dict[str, Row] = Field(default={})
    deviation: dict[str, Row] = Field(default={})
    teacher: Row | None = None
    student: Row | None = None
    labels: dict[str, Label] = Field(default={})
    other_pairs: list[str] = Field(default=[])
    note: str | None = None

    @model_validator(mode="after")
    def _shape(self) -> "Table":
        if len(set(self.pairs)) != len(self.pairs):
            raise ValueError("a pair stands twice among pairs")
        rows = {f"top1.{k}": v for k, v in self.top1.items()} | {f"top5.{k}": v for k, v in self.top5.items()}
        rows |= {f"deviation.{k}": v for k, v in self.deviation.items()}
        rows |= {k: v for k, v in (("teacher", self.teacher), ("student", self.student)) if v is not None}
        for name, row in rows.items():
            if len(row) != len(self.pairs):
                raise ValueError(f"{name} has {len(row)} figures for {len(self.pairs)} pairs")
        for name in {*self.labels, *self.top5, *self.deviation} - self.top1.keys():
            raise ValueError(f"there is no row {name!r} in top1")
        for name in set(self.other_pairs) - set(self.pairs):
            raise ValueError(f"other_pairs names {name!r}, which is not among pairs")
        return self


class Published(Section):
    """The whole file. none: sources without a table, and what they have instead."""

    sources: dict[str, Source]
    tables: dict[str, Table]
    none: dict[str, str] = Field(default={})

    @model_validator(mode="after")
    def _sources(self) -> "Published":
        for name, table in self.tables.items():
            if table.source not in self.sources:
                raise ValueError(f"table {name}: unknown source {table.source!r}{hint(table.source, [*self.sources])}")
        return self


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published cell. top1, top5, deviation in per cent; pair as in configs/pairs.yaml; row: its name there."""

    table: str
    source: str
    title: str
    reports: str | None
    recipe: str
    dataset: str
    pair: str
    row: str
    method: str
    method_args: Mapping[str, Any]
    top1: float
    top5: float | None = None
    deviation: float | None = None
    network: str | None = None  # of rows of networks alone

    @property
    def compared(self) -> str:
        """The epoch of ours that it is compared with: what the source reports; last where it does not say."""
        return self.reports or "last"


@functools.cache
def read_published(path: Path = FILE) -> Published:
    """The file's content. Raises InputError with the first thing that is wrong in it."""
    try:
        return validate(Published, read_yaml(path))
    except ConfigError as error:
        first = next((problem for problem in error.problems if "unknown" in problem), error.problems[0])
        raise InputError(f"{path.name}: {first}") from None


def _cell(rows: Mapping[str, Row], name: str, column: int) -> float | None:
    return rows[name][column] if name in rows else None


def _figures_of(name: str, table: Table, source: Source) -> Iterator[Figure]:
    common: dict[str, Any] = {
        **{"table": name, "source": table.source, "title": source.title, "reports": source.reports},
        **{"recipe": source.recipe, "dataset": table.dataset},
    }
    for column, pair in enumerate(table.pairs):
        for row, cells in table.top1.items():
            label, top1 = table.labels.get(row, Label(method=row)), cells[column]
            alone = label.method == ALONE
            if label.method is None or top1 is None or (alone and pair in table.other_pairs):
                continue
            more: dict[str, Any] = {
                "top5": _cell(table.top5, row, column),
                "deviation": _cell(table.deviation, row, column),
            }
            method: dict[str, Any] = {"row": row, "method": label.method, "method_args": label.method_args}
            network = pair_networks()[pair]["student"] if alone else None
            yield Figure(pair=pair, top1=top1, network=network, **method, **more, **common)
        for part, of_part in (("teacher", table.teacher), ("student", table.student)):
            figure = of_part[column] if of_part is not None else None
            if figure is not None and pair not in table.other_pairs:
                network = pair_networks()[pair][part]
                yield Figure(
                    pair=pair, top1=figure, row=part, method=ALONE, method_args={}, network=network, **common
                )  # fmt: skip


def figures(published: Published) -> list[Figure]:
    """All cells that a run here can be compared with, in the file's order."""
    tables = published.tables.items()
    return [f for name, table in tables for f in _figures_of(name, table, published.sources[table.source])]


def find(
    among: list[Figure],
    dataset: str,
    method: str,
    *,
    pair: str | None = None,
    student: str | None = None,
    method_args: Mapping[str, Any] | None = None,
) -> list[Figure]:
    """The figures of a run, in the file's order. Networks alone are found by `student`, all others by `pair`.

    A figure of a method with given arguments is one of runs that have these, and goes before its table's figure of the
    method without; the order of a+b does not matter.
    """
    given, parts = method_args or {}, sorted(parts_of(method))
    found = []
    for figure in among:
        if figure.dataset != dataset or sorted(parts_of(figure.method)) != parts:
            continue
        where = figure.pair == pair if figure.network is None else same_network(str(student), figure.network)
        if where and all(given.get(k) == v for k, v in figure.method_args.items()):
            found.append(figure)
    most = {f.table: max(len(other.method_args) for other in found if other.table == f.table) for f in found}
    return [f for f in found if len(f.method_args) == most[f.table]]


def choose(found: list[Figure], recipe: str | None, against: str | None) -> Figure | None:
    """The one to stand beside a run: of `against` (a source or a table); else of the run's recipe, else the first."""
    if against is not None:
        return next((f for f in found if against in (f.source, f.table)), None)
    return next((f for f in found if f.recipe == recipe), found[0] if found else None)


def cell(published: Published, table: str, words: str) -> tuple[Figure, bool]:
    """(figure, whether it stands in `table`) of "METHOD/PAIR", a pair in any usual spelling.

    A method that the table lacks is taken from the first other one of the same data set. Raises InputError.
    """
    if table not in published.tables:
        known = sorted(published.tables)
        raise InputError(f"unknown table {table!r}{hint(table, known)} (known: {', '.join(known)})")
    method, slash, spelling = words.partition("/")
    if not (method and slash and spelling):
        raise InputError(f"cell={words}: expected METHOD/PAIR, such as kd/resnet56-resnet20")
    chosen = published.tables[table]
    if spelling.lower() in (name.lower() for name in chosen.other_pairs):
        raise InputError(f"{spelling}: {table} has this pair, but configs/pairs.yaml has not: nothing here trains it")
    try:
        pair = find_pair(spelling, read_yaml(CONFIGS / "pairs.yaml"))
    except ConfigError as error:
        raise InputError(error.problems[0]) from None
    why = {row.lower(): label.why for row, label in chosen.labels.items() if label.method is None}
    if method.lower() in why:
        raise InputError(f"{method}: {table} has this row, but no method here does it ({why[method.lower()]})")
    of_pair = [f for f in figures(published) if f.pair == pair and f.dataset == chosen.dataset]
    named, parts = [f for f in of_pair if f.network is None], sorted(parts_of(method.lower()))
    own = [f for f in named if method.lower() == f.row.lower() or sorted(parts_of(f.method)) == parts]
    if not own:
        known = sorted({f.row for f in named})
        has = f"published there: {', '.join(known)}" if known else "nothing is published for that pair"
        raise InputError(f"no figure for {method} on {pair} ({has})")
    inside = [f for f in own if f.table == table]
    return (inside or own)[0], bool(inside)
