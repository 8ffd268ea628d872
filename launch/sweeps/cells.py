"""Axes, tables, exclusions and further runs as cells: the keys of each run, and its seeds."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launch.sweeps.keys import Keys, SweepFile
from launch.tables.published import Figure, Published, figures
from pipeline.builders.names import NAMES
from pipeline.config import ConfigError, read_yaml
from pipeline.config.layers import CONFIGS, find_pair
from pipeline.contracts import InputError
from pipeline.utils.suggest import hint

RAW = 2_000_000  # combinations that are looked at, before exclusions
NAMED = ("dataset", "pair", "method", "student.model", "teacher.model", "seed")  # keys that the default name tells
# And what tells nothing. A list: a sweep that goes on finds its run folders by the names that the other axes give.
PLACES = ("data.root", "data.download", "data.workers", "teacher.root", "teacher.checkpoint")
Entry = tuple[Keys, frozenset[str]]  # keys, and those of them that belong into the run's name


@dataclass(frozen=True)
class Cell:
    """Runs that differ in their seed alone. keys: words of train.py without the seed; named: those in its name."""

    keys: Keys
    seeds: tuple[int, ...]
    named: frozenset[str] = frozenset()


@dataclass
class Exclusion:
    """One entry of exclude:, and how many runs it has left out."""

    keys: Keys
    runs: int = 0

    def matches(self, keys: Mapping[str, Any]) -> bool:
        """Whether `keys` have one of its values for each of its keys."""
        return all(
            k in keys and keys[k] in (v if isinstance(v, list) else [v]) for k, v in self.keys.items()
        )  # fmt: skip


@dataclass
class Spellings:
    """Names as the registries write them, so that exclusions and tables compare; unknown ones stay as they are."""

    seen: dict[tuple[str, str], Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=lambda: read_yaml(CONFIGS / "pairs.yaml"))

    def __call__(self, name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self(name, one) for one in value]
        if name not in ("pair", "method", "dataset") or not isinstance(value, str):
            return value
        if (name, value) not in self.seen:
            self.seen[name, value] = self._find(name, value)
        return self.seen[name, value]

    def _find(self, name: str, value: str) -> str:
        try:
            return find_pair(value, self.pairs) if name == "pair" else NAMES[name](value, {})
        except (ConfigError, LookupError):
            return value

    def all(self, keys: Keys) -> Keys:
        """`keys` with all names spelled so."""
        return {k: self(k, v) for k, v in keys.items()}


def cells_of(file: SweepFile, words: Keys, published: Published, most_raw: int = RAW) -> list[Cell]:
    """All cells in a stable order. words: of the command line, over everything. Raises InputError: nothing is left,
    an exclusion of a key that no run sets, a table without the cells asked for, far too many combinations."""
    spell = Spellings()
    words = spell.all(words)
    exclusions = [Exclusion(spell.all(keys)) for keys in file.exclude]
    seeds = seeds_of(file, words)
    chosen = {"seed", "method", "pair"} if file.table else {"seed"}  # these choose among what there is
    fixed = {k: v for k, v in words.items() if k not in chosen}
    given, found, known = 0, [], {"seed"}
    for keys, own_seeds, named in _all(file, words, seeds, published, spell, most_raw):
        keys = {**keys, **fixed}
        known |= keys.keys()
        kept = _kept(keys, own_seeds, exclusions)
        given += len(own_seeds)
        if kept:
            found.append(Cell(keys, kept, named - fixed.keys()))
    problems = [
        f"exclude: no run sets {key!r}{hint(key, sorted(known))}"
        for one in exclusions
        for key in one.keys
        if given and key not in known
    ]
    if problems:
        raise InputError("; ".join(dict.fromkeys(problems)))
    if not found:
        raise InputError(_nothing(file, given, exclusions))
    return found


def count(cells: Sequence[Cell]) -> int:
    """Runs of all cells."""
    return sum(len(cell.seeds) for cell in cells)


def seeds_of(file: SweepFile, words: Keys) -> tuple[int, ...]:
    """Of every cell: those of an axis, or `seeds` from `first_seed` on. Raises InputError for what is no seed."""
    if "seed" in words:
        found = [words["seed"]]
    elif "seed" in file.axes:
        found = file.axes["seed"]
    elif "seed" in file.set:
        found = [file.set["seed"]]
    elif file.seeds > RAW:
        raise InputError(f"seeds={file.seeds:,}: more than {RAW:,} are not even looked at")
    else:
        found = list(range(file.first_seed, file.first_seed + file.seeds))
    return _checked_seeds(found)


def _checked_seeds(found: list[Any]) -> tuple[int, ...]:
    for seed in found:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise InputError(f"seed={seed!r}: expected a whole number from 0 to 2^32 - 1")
    return tuple(dict.fromkeys(found))


def _kept(keys: Keys, seeds: tuple[int, ...], exclusions: list[Exclusion]) -> tuple[int, ...]:
    kept = []
    for seed in seeds:
        first = next((one for one in exclusions if one.matches({**keys, "seed": seed})), None)
        if first is None:
            kept.append(seed)
        else:
            first.runs += 1
    return tuple(kept)


def _nothing(file: SweepFile, given: int, exclusions: list[Exclusion]) -> str:
    if given:
        taken = "; ".join(f"{_text(one.keys)} leaves out {one.runs}" for one in exclusions if one.runs)
        return f"0 runs: the exclusions leave nothing of {given} ({taken})"
    empty = [f"axes.{name}" for name, entries in file.axes.items() if not entries]
    return f"0 runs: {', '.join(empty)} has no value" if empty else "0 runs: no axes, no table and no include"


def _text(keys: Keys) -> str:
    return "{" + ", ".join(f"{k}: {v}" for k, v in keys.items()) + "}"


def _all(
    file: SweepFile, words: Keys, seeds: tuple[int, ...], published: Published, spell: Spellings, most: int
) -> Iterator[tuple[Keys, tuple[int, ...], frozenset[str]]]:
    """Keys, seeds and named keys of the product, then of include:, before exclusions."""
    base = spell.all({k: v for k, v in file.set.items() if k != "seed"})
    axes = {name: [words[name]] if name in words else entries for name, entries in file.axes.items() if name != "seed"}
    rows: list[list[Entry]] = [[_entry(name, one, spell) for one in entries] for name, entries in axes.items()]
    if file.table:
        chosen = {k: [e for entry in axes.get(k, []) for e in [spell(k, entry)]] for k in ("method", "pair")}
        chosen |= {k: [words[k]] for k in ("method", "pair") if k in words}
        rows = [row for name, row in zip(axes, rows, strict=True) if name not in chosen]
        rows = [[_of_figure(figure) for figure in _table_cells(file.table, chosen, published)], *rows]
    raw = math.prod(len(row) for row in rows) * len(seeds)
    if raw > most:
        raise InputError(f"{raw:,} combinations, before exclusions: more than {most:,} are not even looked at")
    alone = bool(base or words) and not file.include  # without axes, set: is one cell
    for entries in itertools.product(*rows) if rows or alone else []:
        keys, named = dict(base), frozenset[str]()
        for more, names in entries:
            keys.update(more)
            named |= names
        yield keys, seeds, named
    for entry in file.include:
        more = spell.all(entry)
        own = _checked_seeds(_as_list(more.pop("seed"))) if "seed" in more else seeds
        yield {**base, **more}, own, frozenset(k for k in more if k.startswith("method_args."))


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _entry(name: str, value: Any, spell: Spellings) -> Entry:
    """A value of the axis `name`, or a mapping of keys that go together; only the former is named in any case."""
    if isinstance(value, dict):
        keys = {str(k): v for k, v in value.items()}
        return spell.all(keys), frozenset(k for k in keys if k.startswith("method_args."))
    tells = name not in NAMED and name not in PLACES
    return {name: spell(name, value)}, frozenset([name] if tells else [])


def _of_figure(figure: Figure) -> Entry:
    keys = {"dataset": figure.dataset, "pair": figure.pair, "method": figure.method, "recipe": figure.recipe}
    arguments = {f"method_args.{k}": v for k, v in figure.method_args.items()}
    return {**keys, **arguments}, frozenset(arguments)


def _table_cells(names: list[str], chosen: dict[str, list[Any]], published: Published) -> list[Figure]:
    """The cells of tables that a run here can reproduce, each once. chosen: methods and pairs; [] = all."""
    unknown = [name for name in names if name not in published.tables]
    if unknown:
        known = sorted(published.tables)
        raise InputError(f"table: unknown {unknown[0]!r}{hint(unknown[0], known)} (known: {', '.join(known)})")
    among = [
        f
        for f in figures(published)
        if f.table in names and f.network is None and f.pair not in published.tables[f.table].other_pairs
    ]
    if not among:
        raise InputError(f"table: no cell in {' and '.join(names)} is of a method and a pair that are here")
    for key, of in (("method", lambda f: (f.method, f.row)), ("pair", lambda f: (f.pair,))):
        known = list(dict.fromkeys(name for f in among for name in of(f)))
        for value in chosen[key]:
            if value not in known:
                where = " and ".join(names)
                raise InputError(
                    f"{key} {value!r} is not in {where}{hint(str(value), known)} (there: {', '.join(known)}; include: "
                    "adds further runs)"
                )
    return [
        f
        for f in among
        if (not chosen["method"] or {f.method, f.row} & {*chosen["method"]})
        and (not chosen["pair"] or f.pair in chosen["pair"])
    ]
