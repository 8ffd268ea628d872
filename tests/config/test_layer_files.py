"""Layer files and files of keys: what nobody would read is refused, with the file and the nearest known word."""

from pathlib import Path

import pytest
from making import plain_make as make

from pipeline.builders.names import NAMES
from pipeline.config import ConfigError, layers
from pipeline.contracts import InputError
from pipeline.distillers import DISTILLERS
from pipeline.weights import published as checkpoints

BASE = ["dataset=cifar100", "model=resnet8"]
WORDS = {
    "recipe": [*BASE, "method=kd", "recipe=mine"],
    "method": ["dataset=cifar100", "pair=resnet56-resnet20", "method=kd"],
    "dataset": BASE,
}
FILES = {"recipe": "recipe/mine.yaml", "method": "method/kd.yaml", "dataset": "dataset/cifar100.yaml"}


def problems(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        make(*words)
    return caught.value.problems


IN_ALL = [
    ("optm: {lr: .9}", "unknown key 'optm'; did you mean 'optim'?"),
    ("optim: {lrr: .9}", "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
    ("optim.lrr: .9", "unknown key 'optim.lrr'; did you mean 'optim.lr'?"),
    ("optim: {lr: fast}", 'optim.lr="fast": input should be a valid number'),
    ("data: {padding: 100000}", "data.padding=100000"),
    ("optim: 1", "optim=1: it is a section"),
    ("per: [{when: {datset: cifar100}, set: {}}]", "per[0].when: unknown word 'datset'; did you mean 'dataset'?"),
    ("per: [{when: {dataset: cifar1000}, set: {}}]", "'cifar1000'; did you mean 'cifar100'?"),
    ("per: [{when: {method: [kd, kdd]}, set: {}}]", "'kdd'; did you mean 'kd'?"),
    ("per: [{when: {recipe: simkdd}, set: {}}]", "'simkdd'; did you mean 'simkd'?"),
    ("per: [{when: {pair: resnet56-resnet21}, set: {}}]", "did you mean 'resnet56-resnet20'?"),
    ("per: [{when: {student: resnet21}, set: {}}]", "did you mean 'resnet20'?"),
    ("per: [{when: {}, sett: {optim: {lr: .9}}}]", "per[0]: unknown word 'sett'; did you mean 'set'?"),
    ("per: [{when: {}, sett: {optim: {lr: .9}}}]", "per[0]: set: is missing"),
    ("per: [{set: {optim: {lr: .9}}}]", "per[0]: when: is missing"),
    ("per: [{when: {dataset: synthetic}, set: {optm: {lr: .9}}}]", "per[0].set: unknown key 'optm'"),
    ("per: [{when: {method: crd, dataset: synthetic}, set: {method_args: {KK: 1}}}]", "method_args: unknown word 'KK'"),
    ("per: {when: {}, set: {}}", "is no list of entries"),
    ("per: [1]", "is no entry"),
    ("per: [{when: [a], set: 1}]", "is no mapping"),
    ("a: &a [*a]", "names nothing that is complete"),
    ("- 1", "does not hold a mapping"),
    ("optim: {lr: 1, lr: 2}", "stands twice"),
    ("method_args: {TT: 1}", "method_args: unknown word 'TT'"),
    ("dataset: cifar10", "dataset: the command line chooses it"),
]
IN_ONE = [
    ("recipe", "like: simkdd", "'simkdd'; did you mean 'simkd'?"),
    ("recipe", "lik: simkd", "unknown key 'lik'; did you mean 'like'?"),
    ("recipe", "with: {kd: {}}", "unknown key 'with'"),
    ("method", "like: vanilla", "unknown key 'like'"),
    ("method", "wiht: {kd: {}}", "unknown key 'wiht'; did you mean 'with'?"),
    ("method", "with: {kdd: {}}", "with: unknown word 'kdd'; did you mean 'kd'?"),
    ("method", "with: {crd: {optm: {}}}", "with.crd: unknown key 'optm'"),
    ("method", "with: {crd: {method_args: {KK: 1}}}", "with.crd: method_args: unknown word 'KK'"),
    ("method", "with: {crd: 1}", "with.crd: 1 is no mapping"),
    ("method", "with: {crd: {with: {}}}", "with.crd: unknown key 'with'"),
    ("method", "with: {crd: {recipe: simkdd}}", "with.crd: unknown word 'simkdd'; did you mean 'simkd'?"),
    ("method", "with: {crd: {recipe: [simkd]}}", "with.crd.recipe: ['simkd'] is no name"),
    ("method", "with: {crd: {per: {when: {}, set: {}}}}", "with.crd.per: "),
    ("method", "with: {crd: {per: [{when: {pair: vgg13-vgg9}, set: {}}]}}", "with.crd.per[0].when.pair: unknown word"),
    ("method", "with: {crd: {per: [{when: {student: resnet21}, set: {}}]}}", "with.crd.per[0].when.student: "),
    ("method", "with: {crd: {per: [{when: {}, set: {optm: 1}}]}}", "with.crd.per[0].set: unknown key 'optm'"),
    ("method", "with: {crd: {per: [{when: {}, set: {method_args: {KK: 1}}}]}}", "set: method_args: unknown word"),
    ("method", "recipe: simkdd", "'simkdd'; did you mean 'simkd'?"),
    ("dataset", "num_clases: 3", "unknown key 'num_clases'; did you mean 'num_classes'?"),
    ("dataset", "num_classes: x", "num_classes: x is no number of classes"),
    ("dataset", "networks: cifarr", 'networks="cifarr"'),
]


@pytest.mark.parametrize(
    ("kind", "text", "message"), [(kind, *row) for kind in FILES for row in IN_ALL] + IN_ONE, ids=lambda x: x[:50]
)
def test_unknown_words(kind: str, text: str, message: str, configs: Path) -> None:
    (configs / "recipe" / "mine.yaml").write_text("per: []\n")
    (configs / FILES[kind]).write_text(text)
    found = problems(*WORDS[kind])
    assert any(message in line and FILES[kind] in line for line in found), found


def test_recipes_in_a_circle(configs: Path) -> None:
    (configs / "recipe" / "mine.yaml").write_text("like: yours\n")
    (configs / "recipe" / "yours.yaml").write_text("like: mine\n")
    assert any("leads back to itself" in line for line in problems(*WORDS["recipe"]))


def test_a_wrong_recipe_below_another(configs: Path) -> None:
    (configs / "recipe" / "mine.yaml").write_text("like: yours\n")
    (configs / "recipe" / "yours.yaml").write_text("per: [{when: {student: resnet21}, set: {}}]\n")
    assert any("recipe/yours.yaml" in line for line in problems(*WORDS["recipe"]))


def test_what_layers_may_say(configs: Path) -> None:
    (configs / "recipe" / "mine.yaml").write_text(
        "optim.lr: 3e-1\nteacher.root: 007\ndata: {root: ~/x, index: off}\nrun:\nper:\n"
        "  - when: {dataset: [cifar100], method: kd, student: resnet8, variant: paper}\n    set: {optim.epochs: 3}\n"
        "  - {when: {dataset: cifar100}, set: {method_args: {T: 2}, optim: {milestones: [1, 2]}}}\n"
    )
    config = make(*WORDS["recipe"], "variant=paper")
    assert (config.optim.lr, config.optim.epochs, config.optim.milestones) == (0.3, 3, (1, 2))
    assert (config.teacher.root, config.data.root, config.data.index) == ("007", str(Path("~/x").expanduser()), "off")
    assert config.method_args["T"] == 2


def test_our_own_files_pass() -> None:
    known = layers.Known(NAMES["student.model"], lambda name: DISTILLERS.get(name).Config)
    for kind in FILES:
        for file in (layers.CONFIGS / kind).glob("*.yaml"):
            assert layers.layer_file(kind, file.stem) is not None
            assert layers._misnamed(kind, file.stem, known) == []
    assert len(layers.pairs_table()["pairs"]) > 20 and len(checkpoints.releases()) > 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spelings: {}\npairs: {}", "unknown word 'spelings'; did you mean 'spellings'?"),
        ("spellings: {}\npairs: {a-b: {techer: {model: a}, student: {model: b}}}", "'techer'; did you mean 'teacher'?"),
        ("spellings: {}\npairs: {a-b: {teacher: {modle: a}, student: {model: b}}}", "did you mean 'teacher.model'?"),
        ("spellings: {}\npairs: {a-b: {teacher: {model: a}}}", "pairs.a-b: student.model: is missing"),
        ("spellings: {r: x}\npairs: {}", "spellings.r: is no list of names"),
        ("pairs: []", "spellings: is missing"),
        ("a: &a [*a]", "cannot read"),
    ],
)
def test_the_table_of_pairs(text: str, message: str, configs: Path) -> None:
    (configs / "pairs.yaml").write_text(text)
    assert any(message in line and "pairs.yaml" in line for line in problems("dataset=cifar100", "pair=a-b"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("releasess: {}", "unknown word 'releasess'; did you mean 'releases'?"),
        ("releases: {a: {datset: x}}", "unknown word 'datset'; did you mean 'dataset'?"),
        ("releases: {a: {dataset: x, page: p, licence: l, files: [{fiel: 1}]}}", "'fiel'; did you mean 'file'?"),
        ("releases: 1", "is no mapping"),
        ("", "is no mapping"),
        ("releases: {}\nspellings: {a: [1]}", "is no text"),
        ("a: &a [*a]", "cannot read"),
    ],
)
def test_the_table_of_teachers(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "teachers.yaml"
    file.write_text(text)
    monkeypatch.setattr(checkpoints, "TABLE", file)
    checkpoints._table.cache_clear()
    try:
        with pytest.raises(InputError) as caught:
            checkpoints.releases()
    finally:
        checkpoints._table.cache_clear()
    assert message in str(caught.value) and "teachers.yaml" in str(caught.value)


def test_sums_of_digits_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "teachers.yaml"
    files = "[{file: f, sha256: 0012345678, holds: {007: 1e3}}]"
    file.write_text(f"releases: {{a: {{dataset: x, page: p, licence: null, files: {files}}}}}")
    monkeypatch.setattr(checkpoints, "TABLE", file)
    checkpoints._table.cache_clear()
    try:
        [published] = checkpoints.releases()["a"].files
    finally:
        checkpoints._table.cache_clear()
    assert (published.sha256, published.holds) == ("0012345678", {"007": "1e3"})


@pytest.mark.parametrize(
    "text",
    [
        "student.model: resnet8\noptim.lr: .3",
        "model: resnet8\noptim: {lr: .3}",
        "student: {model: resnet8}\noptim.lr: 3e-1",
        "optim.lr: .3\noptim: {epochs: 240}\nmodel: resnet8",
    ],
)
def test_dotted_keys_and_aliases_in_files(text: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    config = make("dataset=cifar100", f"config={file}")
    assert (config.student.model, config.optim.lr) == ("resnet8", 0.3)
    assert make("dataset=cifar100", f"config={file}", "model=resnet14").student.model == "resnet14"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("student.modle: x", "unknown key 'student.modle'; did you mean 'student.model'?"),
        ("modle: x", "unknown key 'modle'; did you mean 'model'?"),
        ("model: x\nstudent: {model: y}", "'student.model' is given twice"),
        ("student.model: x\nstudent: y", "'student' is given twice"),
        ("config: x", "unknown key 'config'"),
        ("data.mean.0: 1", "unknown key 'data.mean.0'"),
    ],
)
def test_suggestions_make_sense(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    found = problems("dataset=cifar100", f"config={file}")
    assert any(message in line and str(file) in line for line in found), found


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("dataset", "cifar100", BASE),
        ("dataset", "folder", ["dataset=ImageFolder", "model=resnet8"]),
        ("method", "kd", WORDS["method"]),
        ("method", "crd", ["dataset=cifar100", "pair=resnet56-resnet20", "method=kd+crd"]),
    ],
)
def test_a_registered_part_without_a_file_is_told_which(configs: Path, kind: str, name: str, words: list[str]) -> None:
    """Not 'unknown': the class is there. An empty file is enough."""
    file = configs / kind / f"{name}.yaml"
    file.unlink()
    missing = f"{kind} {name!r} is registered, but its file configs/{kind}/{name}.yaml is missing"
    found = problems(*words)
    assert len(found) == 1 and found[0].startswith(missing)
    file.write_text("# nothing\n")
    make(*words)
