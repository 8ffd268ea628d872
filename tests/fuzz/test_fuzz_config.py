"""Command lines, files of keys, layer files, tables and sweeps of any kind: taken, or one line for each fault."""

import random
from pathlib import Path
from typing import Any

import pytest
from fuzzing import assert_no_faults, cut, flipped, judge

from data_prep.cache_keys import CacheTeacherConfig
from launch.sweeps.file import read_words
from pipeline.builders.names import ALIASES, NAMES, arguments_of
from pipeline.builders.run import default_name
from pipeline.config import (
    ConfigError,
    EvaluateConfig,
    ExportConfig,
    TrainConfig,
    compose,
    layers,
    read_yaml,
    validate,
)
from pipeline.config.words import known_keys
from pipeline.measure.keys import BenchmarkConfig
from pipeline.utils.plain_yaml import dump
from pipeline.weights.published import releases

SCHEMAS = (TrainConfig, TrainConfig, EvaluateConfig, ExportConfig, BenchmarkConfig, CacheTeacherConfig)
KINDS = ("dataset", "method", "recipe")
VALUES = [
    *("", " ", "~", "~/x", "null", "None", "no", "off", "on", "yes", "true", "y", "007", "1_000", "12:30:00", "1e3"),
    *("2024-01-01", "x #2", "#1", "&a", "*a", "&a [*a]", "${x}", "${", "$", "!!binary aGk=", "!!python/none x"),
    *("[]", "{}", "[", "{", "]", "[a,b]", "[1,2,3]", "[.5,.5,.5]", "[[1]]", "{a: 1}", "{a: {b: [1]}}", "- x", "a: b"),
    *("|", ">", "'", '"', "'x'", '"x"', '"\\ud800"', '"\\x"', "''", "\\", "\0", "\n", "a\nb", "\t", "\x1b[0m", "é"),
    *("\udcff", "\u2028", "..", "/", "../..", "a/../b", ".", "a//b", "/etc", "x" * 256, "x" * 5000, "a/" * 3000),
    *("0", "-1", "1", "2", "1.5", ".5", "1e-3", "1e308", "1e309", "-1e-320", "nan", ".nan", ".inf", "-.inf", "0x10"),
    *("9" * 30, "9" * 5000, "[" * 1000, "[" * 40 + "]" * 40, "{a: " * 500, "[1,[" * 50, "a" + ".a" * 60, "<<: *a"),
    *("kd", "kd+crd", "kd+kd", "+", "kd+", "resnet8", "timm:x", "x:y", ":", "resnet56-resnet20", "cifar100", "help"),
    *("? a", "@", "`", "%", ",", "!x y", "😀", "0b1"),
]
EXTRA = [
    *("model", "config", "method_args.T", "method_args.kd.T", "method_args", "student.args.num_classes", "student"),
    *("data.mean.0", "data.mean.a", "seed.a", "optm.lr", "a", "a.b", "_", "optim.", "optim..lr", "student.args.x.y"),
    *("a" + ".a" * 3000, "x" * 300, "teacher.args", "runtime", "method_args.further_T", "checkpoint", "help", "data"),
]
PIECES = """\
a: &a [x]|b: *a|a: *a|<<: *a|optim: {lr: .1}|optim.lr: .1|model: resnet8|- 1|per:|  - when: {dataset: cifar100}
    set: {optim: {lr: .9}}|like: simkd|with: {kd: {}}|method_args: {T: 1}|? [a]|---|...|%YAML 1.2|'|"|{|[|!!set {a}
!!python/object/apply:os.system [x]|num_classes: x|data:|  mean: [1, 2]|x: >|\t|  |#|run: {name: }|run.name: 1e3
data.root: ~/x|1: 2|null: 3|recipe: 1|pairs: {a: {}}|spellings: {}|when: 1|set: []|files: [{file: 1}]|\x85|\ufeff|\0
releases: {a: {dataset: x}}|axes: {optim.lr: [1, 2]}|seeds: 2|include: 1|exclude: [{seed: 1}]|title: 007"""


def made(schema: type[Any], words: list[str]) -> Any:
    """The configuration; it can be written and read again, and has a name below run.dir."""
    arguments = {"arguments_of": arguments_of} if issubclass(schema, TrainConfig) else {}
    names = {key: NAMES[key] for key in NAMES if key in set(known_keys(schema))}
    config = compose(schema, words, aliases=ALIASES, names=names, **arguments)  # type: ignore[arg-type]
    assert validate(schema, config.model_dump(mode="json")) == config
    if isinstance(config, TrainConfig):
        name = config.run.name or default_name(config)
        assert name.isprintable() or "\u3000" in name
        inside = (Path("/runs") / name).parts
        assert inside[:2] == ("/", "runs") and len(inside) > 2 and ".." not in inside
        assert max(len(part.encode()) for part in inside) <= 255
    return config


def value(rng: random.Random) -> str:
    chosen = rng.choice(VALUES)
    if rng.random() < 0.2:
        chosen = rng.choice(VALUES)[:200] + chosen[:200]
    if rng.random() < 0.1:
        chosen = "".join(
            chr(rng.choice([rng.randrange(128), rng.randrange(0x110000)])) for _ in range(rng.randrange(9))
        )
    return chosen


def a_word(rng: random.Random, keys: list[str]) -> str:
    key = rng.choice(keys if rng.random() < 0.8 else EXTRA)
    if rng.random() < 0.05:
        key = key[: rng.randrange(len(key))] + rng.choice("abc._=-\0 ")
    return f"{key}={value(rng)}"


def a_line(rng: random.Random) -> tuple[int, list[str]]:
    """(schema, command line)."""
    which = rng.randrange(len(SCHEMAS))
    keys = known_keys(SCHEMAS[which])
    words = ["dataset=cifar100", "model=resnet8"] if rng.random() < 0.8 else []
    words += ["pair=resnet56-resnet20", "method=kd"] if rng.random() < 0.3 and which != 2 else []
    more = [a_word(rng, keys) for _ in range(rng.choice([1, 1, 1, 2, 4]))]
    return which, [*words, *(word for word in more if word not in ("-h", "--help", "help"))]


def a_file(rng: random.Random, whole: list[bytes]) -> bytes:
    """A file of ours that is damaged, or pieces in no good order."""
    kind = rng.random()
    if kind < 0.3:
        return flipped(rng.choice(whole), rng, rng.choice([1, 2, 20]))
    if kind < 0.4:
        return cut(rng.choice(whole), rng)
    if kind < 0.6:
        lines = rng.choice(whole).split(b"\n")
        rng.shuffle(lines)
        return b"\n".join(lines)
    if kind < 0.8:
        keys = rng.sample(known_keys(TrainConfig), 3)
        return "\n".join(f"{key}: {value(rng)}" for key in keys).encode(errors="surrogatepass")
    pieces = [piece for line in PIECES.split("\n") for piece in line.split("|")]
    return "\n".join(rng.choice(pieces) for _ in range(rng.randrange(1, 12))).encode()


def lines(rng: random.Random, count: int) -> None:
    verdicts = judge([a_line(rng) for _ in range(count)], lambda case: made(SCHEMAS[case[0]], case[1]))
    assert_no_faults(verdicts, count // 3)


def test_a_few_command_lines() -> None:
    lines(random.Random(1), 60)


@pytest.mark.slow
def test_command_lines(fuzz_rng: random.Random, fuzz_cases: int) -> None:
    lines(fuzz_rng, fuzz_cases)


@pytest.mark.slow
def test_files_of_keys(fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path) -> None:
    config = compose(TrainConfig, ["dataset=cifar100", "model=resnet8"], aliases=ALIASES, names={})
    whole = [dump(config.model_dump(mode="json")).encode(), b"model: resnet8\noptim.lr: .1\nrun: {name: 007}\n"]
    file = tmp_path / "keys.yaml"

    def run(content: bytes) -> None:
        file.write_bytes(content)
        made(TrainConfig, ["dataset=cifar100", f"config={file}"])

    assert_no_faults(judge([a_file(fuzz_rng, whole) for _ in range(fuzz_cases)], run), fuzz_cases // 3)


@pytest.mark.slow
def test_layer_files(fuzz_rng: random.Random, fuzz_cases: int, configs: Path) -> None:
    names = {"dataset": "cifar100", "method": "kd", "recipe": "mine"}
    whole = {kind: [path.read_bytes() for path in sorted((configs / kind).glob("*.yaml"))] for kind in KINDS}
    (configs / "recipe" / "mine.yaml").write_text("like: simkd\n")
    words = ["dataset=cifar100", "pair=resnet56-resnet20", "method=kd", "recipe=mine"]

    def run(case: tuple[str, bytes]) -> None:
        kind, content = case
        file = configs / "pairs.yaml" if kind == "pairs" else configs / kind / f"{names[kind]}.yaml"
        before = file.read_bytes()
        try:
            file.write_bytes(content)
            made(TrainConfig, words)
        finally:
            file.write_bytes(before)

    whole["pairs"] = [(configs / "pairs.yaml").read_bytes()]
    cases = [(kind, a_file(fuzz_rng, whole[kind])) for kind in fuzz_rng.choices(sorted(whole), k=fuzz_cases)]
    assert_no_faults(judge(cases, run), fuzz_cases // 3)


@pytest.mark.slow
def test_tables_and_sweeps(
    fuzz_rng: random.Random, fuzz_cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.weights import published

    table, sweep = tmp_path / "teachers.yaml", tmp_path / "sweep.yaml"
    whole = [published.TABLE.read_bytes(), *(p.read_bytes() for p in (layers.CONFIGS / "sweep").glob("*.yaml"))]
    monkeypatch.setattr(published, "TABLE", table)

    def run(content: bytes) -> None:
        table.write_bytes(content)
        sweep.write_bytes(content)
        published._table.cache_clear()
        refused = []
        for read in (releases, lambda: read_words([f"sweep={sweep}"]), lambda: read_yaml(table)):
            try:
                read()
            except ConfigError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    assert_no_faults(judge([a_file(fuzz_rng, whole) for _ in range(fuzz_cases)], run), fuzz_cases // 3)
