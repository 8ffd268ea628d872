"""Run one published cell here, teacher included, and print it beside the published figure.

python launch/reproduce.py table=rep_t1 cell=dkd/wrn40_2-wrn16_2 [seeds=3 out=runs/reproduce] <keys of train.py>

One teacher for all seeds, unless teacher.checkpoint= is given. Keys of train.py hold for the students and, those of
the method apart, for the teacher. Called again, it goes on: finished runs are kept.
"""

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from pydantic import Field

from launch.jobs.inherited import cleaned
from launch.tables.formats import markdown
from launch.tables.published import Figure, cell, read_published
from launch.tables.report import make_report
from launch.tables.rows import recipe_words
from pipeline import cli
from pipeline.builders.names import train_config
from pipeline.config import compose, describe
from pipeline.config.base import PathText, Section, Seed, Text, key
from pipeline.config.pairs import pair_networks
from pipeline.contracts import InputError
from pipeline.run_folder.spread import spread_text

TRAIN = Path(__file__).resolve().parents[1] / "pipeline" / "train.py"
# What the cell and out= set.
FIXED = ("pair", "method", "recipe", "seed", "model", "student.model", "teacher.model", "run.dir", "run.name", "config")
OF_STUDENTS = ("method_args.", "teacher.", "student.", "variant=")  # keys that the teacher's own training lacks
CHECKPOINT = "teacher.checkpoint="


class ReproduceConfig(Section):
    """Keys of launch/reproduce.py."""

    table: Text = key(..., "table of configs/published.yaml", affects="numbers")
    cell: Text = key(
        ...,
        "METHOD/PAIR; a method that the table lacks is taken from the first other one that has it",
        affects="numbers",
    )
    seeds: int = Field(default=3, ge=1, description="students to train")
    first_seed: Seed = Field(default=0, description="first seed")
    out: PathText = key("runs/reproduce", "folder of the runs", affects="place")


class Failed(Exception):
    """A run ended without a result."""


def split_words(argv: list[str]) -> tuple[list[str], list[str]]:
    """(own words, words of train.py). Raises InputError for a key that the cell sets."""
    own = [w for w in argv if w.partition("=")[0] in ReproduceConfig.model_fields or "=" not in w]
    others = [w for w in argv if w not in own]
    for word in others:
        if word.partition("=")[0] in FIXED:
            raise InputError(f"{word}: set by the cell; give table= and cell=, and other keys of train.py")
    return own, others


def dataset_of(figure: Figure, others: list[str]) -> str:
    """What the runs train on: the figure's data set, or that of dataset=."""
    given = [word.partition("=")[2] for word in others if word.startswith("dataset=")]
    return given[-1] if given else figure.dataset


def folder_name(figure: Figure, others: list[str]) -> str:
    """Of the students, below `out`: rows of one method with arguments of their own lie apart."""
    arguments = "".join(f"-{k}{v}" for k, v in figure.method_args.items())
    return f"{dataset_of(figure, others)}/{figure.method}{arguments}/{figure.pair}"


def runs_of(config: ReproduceConfig, figure: Figure, others: list[str]) -> list[list[str]]:
    """Words of each run of train.py, in order: the teacher unless its weights are given, then a student per seed."""
    name = folder_name(figure, others)
    place = [f"run.dir={config.out}", "log.tensorboard=false"]
    runs, given = [], any(word.startswith(CHECKPOINT) for word in others)
    weights = []
    if not given:
        teacher = pair_networks()[figure.pair]["teacher"]
        folder = f"{dataset_of(figure, others)}/teacher/{teacher}/seed{config.first_seed}"
        plain = [w for w in others if not w.startswith(OF_STUDENTS)]
        words = [f"dataset={figure.dataset}", f"model={teacher}", f"seed={config.first_seed}"]
        runs.append([*words, *place, f"run.name={folder}", *plain])
        weights = [f"{CHECKPOINT}{Path(config.out) / folder}"]
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        words = [*recipe_words(figure), *weights, f"seed={seed}", *place, f"run.name={name}/seed{seed}"]
        runs.append([*words, *others])
    return runs


def check(runs: list[list[str]]) -> None:
    """All runs are valid before the first begins. Raises ConfigError."""
    for words in runs:
        train_config(words)


def train(words: list[str]) -> None:
    """One run in a process of its own, its lines on this terminal. Raises Failed."""
    print(f"\ntrain.py {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, str(TRAIN), *words], stdin=subprocess.DEVNULL, env=cleaned())
    if done.returncode != 0:
        raise Failed(f"the run ended with exit code {done.returncode}; the same command goes on where it stopped")


def result(config: ReproduceConfig, figure: Figure, folders: list[Path]) -> str:
    """The table of the students, and the published figure, which the table lacks where another data set was taken."""
    report = make_report(folders, against=figure.table, title=f"{figure.method} {figure.pair}")
    published = spread_text((figure.top1, figure.deviation))
    epoch = figure.reports or "epoch not stated"
    lines = [markdown(report), f"published: {published} on {figure.dataset} ({figure.title}, {figure.table}, {epoch})"]
    for row in report.rows:
        lines.append(
            f"here: last {spread_text(row.last)}, best {spread_text(row.best)} on {row.dataset}, n {len(row.seeds)}"
        )
    return "\n".join(lines)


def help_text() -> str:
    """What --help prints."""
    return describe(__doc__ or "", ReproduceConfig, f"\ntables: {', '.join(read_published().tables)}")


def main(argv: list[str]) -> None:
    """The command line."""
    own, others = split_words(argv)
    config = compose(ReproduceConfig, own)
    figure, inside = cell(read_published(), config.table, config.cell)
    runs = runs_of(config, figure, others)
    check(runs)
    if not inside:
        print(f"{config.table} has no {figure.method}: compared with {figure.table} ({figure.title})")
    for words in runs:
        train(words)
    name = folder_name(figure, others)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    print("\n" + result(config, figure, [Path(config.out) / name / f"seed{seed}" for seed in seeds]))


if __name__ == "__main__":
    cli.run(main, help_text, {Failed: 1})
