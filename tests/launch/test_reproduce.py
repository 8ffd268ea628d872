"""One published cell as one command: the runs it makes, and the figure it prints beside them."""

from pathlib import Path

import cli
import mini_cifar
import pytest

from launch import reproduce
from launch.tables.published import cell, read_published
from launch.tables.rows import recipe_words
from pipeline.builders.names import train_config

CELL = ("table=rep_t1", "cell=kd/res56-res20")


def runs(*argv: str) -> list[list[str]]:
    own, others = reproduce.split_words(list(argv))
    config = reproduce.compose(reproduce.ReproduceConfig, own)
    figure, _ = cell(read_published(), config.table, config.cell)
    return reproduce.runs_of(config, figure, others)


def test_a_teacher_and_a_student_for_each_seed() -> None:
    teacher, *students = runs(*CELL, "seeds=2", "first_seed=5", "out=o", "data.root=D", "method_args.T=3.0")
    assert {"dataset=cifar100", "model=resnet56", "seed=5", "data.root=D"} <= set(teacher)
    assert "method_args.T=3.0" not in teacher and "pair=resnet56-resnet20" not in teacher
    for seed, words in zip((5, 6), students, strict=True):
        assert {"pair=resnet56-resnet20", "method=kd", "recipe=repdistiller", f"seed={seed}"} <= set(words)
        assert {"teacher.checkpoint=o/cifar100/teacher/resnet56/seed5", "method_args.T=3.0"} <= set(words)
    reproduce.check([teacher, *students])


def test_a_given_teacher_is_not_trained() -> None:
    (words,) = runs(*CELL, "seeds=1", "teacher.checkpoint=auto")
    assert words[-1] == "teacher.checkpoint=auto" and sum(w.startswith("teacher.") for w in words) == 1


def test_arguments_of_a_published_row_are_those_of_the_run() -> None:
    words = runs("table=simkd_t1", "cell=SimKD f=8/res32x4-vgg8")[-1]
    assert {"method=simkd", "method_args.factor=8"} <= set(words)
    (place,) = [w for w in words if w.startswith("run.name=")]
    assert place == "run.name=cifar100/simkd-factor8/resnet32x4-vgg8/seed2"


@pytest.mark.parametrize("table", ["lskd_t1", "lskd_t2"])
@pytest.mark.parametrize("method", ["lskd", "lskd+dkd", "lskd+mlkd", "lskd+ctkd"])
def test_a_plain_command_is_the_cell(table: str, method: str) -> None:
    pairs = read_published().tables[table].pairs
    for pair in (pairs[1], pairs[4]):
        figure, inside = cell(read_published(), table, f"{method}/{pair}")
        plain = train_config(["dataset=cifar100", f"pair={pair}", f"method={method}"])
        assert inside and train_config(recipe_words(figure)) == plain and plain.recipe == "lskd"


def test_dkd_with_a_learned_temperature_is_the_command_of_ctkds_script() -> None:
    """scripts/run_imagenet_distill.sh: -r 1 -a 0 -b 1 --dkd_alpha 1 --dkd_beta 1."""
    figure, _ = cell(read_published(), "ctkd_imagenet", "DKD + CTKD/r34_r18")
    config = train_config(recipe_words(figure))
    wanted = {"ce_weight": 1, "kd_weight": 0, "dkd_alpha": 1, "dkd_beta": 1, "t_start": 1, "t_range": 20}
    assert config.method_args.items() >= wanted.items() and config.method_args["decay_loops"] == 5
    assert (config.data.batch_size, config.optim.lr, config.optim.epochs) == (256, 0.1, 120)


def test_a_tiny_cell_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = mini_cifar.write(tmp_path / "data", train=32, test=10)
    tiny = [f"data.root={root}", "data.batch_size=16", "optim.epochs=1", "run.limit_steps=1", "runtime.threads=1"]
    code, out, err = cli.call(reproduce, [*CELL, "seeds=1", f"out={tmp_path / 'runs'}", *tiny], capsys)
    assert (code, err) == (0, "")
    assert "published: 70.66 on cifar100 (RepDistiller, rep_t1, last)" in out
    assert "here: last " in out and "on cifar100, n 1" in out
    assert r"unlike RepDistiller's recipe: data.batch\_size=16 (recipe: 64), optim.epochs=1 (recipe: 240)" in out
    assert (tmp_path / "runs/cifar100/teacher/resnet56/seed0/summary.json").is_file()


def test_a_failed_run_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reproduce, "TRAIN", tmp_path / "no_such.py")
    with pytest.raises(reproduce.Failed, match="exit code 2"):
        reproduce.train(["dataset=synthetic"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table=rep_t1"], "cell= must be given"),
        (["table=rep_t7", "cell=kd/res56-res20"], "unknown table 'rep_t7'"),
        ([*CELL, "pair=vgg13-vgg8"], "pair=vgg13-vgg8: set by the cell"),
        ([*CELL, "optim.lrr=1"], "unknown key 'optim.lrr'"),
        ([*CELL, "seeds=0"], "seeds=0"),
        ([*CELL, "rubbish"], "expected key=value, got 'rubbish'"),
    ],
)
def test_bad_words_begin_nothing(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = cli.call(reproduce, words, capsys)
    assert (code, out) == (2, "") and message in err and err.startswith("error: ")
