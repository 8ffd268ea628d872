"""Groups of runs as rows of a table: ours beside a published figure, and what must be said about the comparison."""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.tables.published import Figure, Published, Source, choose, figures, find
from launch.tables.runs import how_far, settings_text
from pipeline.builders.names import train_config
from pipeline.config import ConfigError, TrainConfig, flatten, parts_of
from pipeline.contracts import InputError
from pipeline.run_folder.groups import RunGroup
from pipeline.run_folder.record import PLACES
from pipeline.run_folder.spread import Spread, mean_std
from pipeline.utils.suggest import hint

# Besides PLACES: where the teacher's outputs come from, and the words that chose the keys. A list: what a recipe says
# of a run is a question of this table alone.
NOT_RECIPE = {*PLACES, "recipe", "teacher.checkpoint", "teacher.source", "teacher.cached_from", "data.on_bad"}
MOST_KEYS = 6  # of a note; a run of another recipe differs in many


@dataclass
class Row:
    """One cell of the sweep. last, best, difference in points of top-1; marked: the difference exceeds the noise."""

    dataset: str
    pair: str
    method: str
    variant: str
    recipe: str
    settings: str
    seeds: list[int]
    last: Spread | None = None
    best: Spread | None = None
    figure: Figure | None = None
    difference: float | None = None
    marked: bool = False
    notes: list[str] = field(default_factory=list)


def make_rows(groups: list[RunGroup], published: Published, against: str | None) -> list[Row]:
    """A row for each group. against: a source or a table, None = that of the run's recipe, else the first. Raises
    InputError for an unknown one."""
    known = [*published.sources, *published.tables]
    if against is not None and against not in known:
        raise InputError(f"unknown source {against!r}{hint(against, known)} (known: {', '.join(published.sources)})")
    among = figures(published)
    return [_row(one, published, among, against) for one in groups]


def _row(one: RunGroup, published: Published, among: list[Figure], against: str | None) -> Row:
    config = one.any_run.config
    row = Row(
        dataset=config.dataset,
        pair=one.any_run.pair,
        method=config.method,
        variant=config.variant,
        recipe=config.recipe,
        settings=settings_text(one.settings),
        seeds=one.seeds,
    )
    found = find(
        among,
        config.dataset,
        config.method,
        pair=row.pair,
        student=config.student.model,
        method_args=config.method_args,
    )
    row.figure = choose(found, config.recipe, against)
    results = [run.result for run in one.done if run.result is not None]
    if results:
        row.last, row.best = mean_std(r.top1_last for r in results), mean_std(r.top1_best for r in results)
        _compare(row)
    row.notes = _notes(row, config, published)
    return row


def _compare(row: Row) -> None:
    """Last with last, best with best. The mark: beyond two standard errors of our mean and the published deviation."""
    if row.figure is None:
        return
    mean, std = getattr(row, row.figure.compared)
    row.difference = mean - row.figure.top1
    if std is not None:
        error = math.hypot(std / math.sqrt(len(row.seeds)), row.figure.deviation or 0.0)
        row.marked = abs(row.difference) > 2 * error


def _notes(row: Row, config: TrainConfig, published: Published) -> list[str]:
    notes = []
    steps = config.run.limit_steps
    if steps is not None:
        notes.append(f"cut short by run.limit_steps={steps}")
    if config.select_on != "test":
        notes.append("the best epoch is chosen on held-out images; the field chooses it on the test set")
    if row.figure is None:
        return notes + [f"{part}: {published.none[part]}" for part in parts_of(row.method) if part in published.none]
    if row.figure.reports is None:
        epoch = published.sources[row.figure.source].epoch
        notes.append(f"epoch of {row.figure.title}: {epoch}; compared with our last")
    table_note = published.tables[row.figure.table].note
    if table_note:
        notes.append(f"{row.figure.table}: {table_note}")
    other = unlike_recipe(config, row.figure)
    if other:
        shown = ", ".join(other[:MOST_KEYS]) + (f" and {len(other) - MOST_KEYS} more" if len(other) > MOST_KEYS else "")
        notes.append(f"unlike {row.figure.title}'s recipe: {shown}")
    return notes


def recipe_words(figure: Figure, student: str | None = None) -> list[str]:
    """key=value words of the run that a figure stands for (without data, seed and teacher's weights)."""
    if figure.network is not None:
        return [f"dataset={figure.dataset}", f"model={student or figure.network}", f"recipe={figure.recipe}"]
    words = [f"dataset={figure.dataset}", f"pair={figure.pair}", f"method={figure.method}", f"recipe={figure.recipe}"]
    return words + [f"method_args.{key}={json.dumps(value)}" for key, value in figure.method_args.items()]


@functools.cache
def _keys_of(words: tuple[str, ...]) -> Mapping[str, Any] | None:
    """The numbers of a run of `words`, None where they are no valid run."""
    try:
        return flatten(train_config(words).numbers())
    except (ConfigError, LookupError):
        return None


def unlike_recipe(config: TrainConfig, figure: Figure) -> list[str]:
    """'optim.epochs=2 (recipe: 240)' for each key in which the run is not what its source's recipe says."""
    published = _keys_of(tuple(recipe_words(figure, config.student.model)))
    if published is None:
        return []
    own = flatten(config.numbers())
    names = [k for k in dict.fromkeys([*own, *published]) if k not in NOT_RECIPE and own.get(k) != published.get(k)]
    return [f"{settings_text({k: own.get(k)})} (recipe: {_value(published.get(k))})" for k in names]


def _value(value: Any) -> str:
    return settings_text({"": value})[1:]


def gaps(groups: list[RunGroup]) -> list[str]:
    """A line for each cell that lacks seeds which other cells of its data set have, and for each unfinished run."""
    given = {r.config.teacher.checkpoint for one in groups for r in one.runs}
    teachers = {Path(checkpoint).resolve() for checkpoint in given if checkpoint}  # one seed teaches all students
    seeds: dict[str, set[int]] = {}
    for one in groups:
        seeds.setdefault(one.any_run.config.dataset, set()).update(_seeds(one, teachers))
    lines = []
    for one in groups:
        run, own = one.any_run, _seeds(one, teachers)
        name = f"{run.config.dataset} {run.pair} {run.config.method} {settings_text(one.settings)}".strip()
        missing = sorted(seeds[run.config.dataset] - own) if own else []
        if missing:
            lines.append(f"{name}: no run of seed {', '.join(map(str, missing))}")
        done = set(one.seeds)
        unfinished = [r for r in one.unfinished if r.config.seed not in done]
        lines += [f"{name}: seed {r.config.seed} is not finished ({how_far(r)}; {r.folder})" for r in unfinished]
    return lines


def _seeds(one: RunGroup, teachers: set[Path]) -> set[int]:
    """Those of its runs, unless other runs here learn from them."""
    return {r.config.seed for r in (*one.runs, *one.unfinished) if r.folder.resolve() not in teachers}


def source_text(source: Source) -> str:
    """Where a source's figures stand and what kind of figures they are."""
    trials = f"; {source.trials} run{'s' if source.trials != 1 else ''}" if source.trials else ""
    spread = "with deviation" if source.deviation == "std" else "no deviation published"
    note = f"; {source.note}" if source.note else ""
    epoch = "; ".join(text for text in (source.reports, source.epoch) if text)
    return f"{source.title}: {source.where}; epoch: {epoch}{trials}; {spread}{note}"
