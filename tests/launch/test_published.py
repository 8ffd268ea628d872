"""The figures of others: complete, of pairs and methods that exist here, and found as runs ask for them."""

import math
from pathlib import Path

import pytest

from launch.tables.published import (
    ALONE,
    Figure,
    cell,
    choose,
    figures,
    find,
    read_published,
)
from pipeline.config import parts_of
from pipeline.config.layers import CONFIGS
from pipeline.config.pairs import pair_networks
from pipeline.contracts import InputError
from pipeline.distillers import DISTILLERS

PUBLISHED = read_published()
ALL = figures(PUBLISHED)
# (rows, figures, sum) of each table as printed by its source.
SUMS = {
    "rep_t1": (13, 90, 6474.52),
    "rep_t2": (12, 72, 5066.76),
    "lskd_t1": (8, 56, 4146.36),
    "lskd_t2": (8, 56, 4125.90),
    "simkd_t1": (11, 33, 2502.62),
    "semckd_t1": (7, 49, 3637.94),
    "dist_cifar100": (1, 6, 444.84),
    "dist_imagenet": (2, 3, 216.52),
    "dist_imagenet_large": (2, 12, 880.33),
    "dist_imagenet_strong": (2, 12, 928.20),
    "nkd_imagenet": (1, 4, 306.18),
    "uskd_imagenet": (1, 9, 673.25),
    "ctkd_cifar100": (2, 12, 874.44),
    "ctkd_imagenet": (4, 4, 284.79),
    "lskd_imagenet": (1, 1, 71.45),
    "lskd_vit": (2, 8, 626.22),
    "simkd_deeper": (4, 4, 309.85),
    "ttm_t1": (4, 28, 2082.44),
    "ttm_t2": (4, 24, 1775.71),
    "ttm_imagenet": (1, 2, 145.28),
    "ttm_vit": (5, 5, 383.82),
    "norm_t1": (5, 35, 2572.31),
    "norm_t2": (5, 30, 2206.64),
    "norm_imagenet": (1, 2, 146.40),
    "luminet_t1": (1, 6, 450.43),
    "luminet_t2": (1, 5, 372.63),
    "luminet_imagenet": (1, 2, 144.71),
    "wkd_imagenet": (3, 6, 437.73),
    "wkd_cifar100": (3, 6, 462.16),
    "sdd_cifar100": (6, 36, 2654.62),
    "sdd_imagenet": (6, 6, 433.57),
    "diffkd_imagenet": (1, 2, 145.44),
    "srd_imagenet": (1, 1, 71.87),
    "srd_torchdistill_imagenet": (1, 1, 71.92),
    "reviewkd_imagenet": (1, 2, 144.17),
}
# (table, row, pair): top1 of rows whose method is not here yet, which no Figure has.
TO_COME = {
    ("norm_t1", "norm", "resnet32x4-resnet8x4"): 76.49,
    ("norm_t2", "NORM + KD", "ResNet50-MobileNetV2"): 71.17,
    ("luminet_t1", "luminet", "resnet32x4-resnet8x4"): 77.50,
    ("wkd_cifar100", "WKD-L + WKD-F", "wrn_40_2-ShuffleV1"): 77.50,
    ("wkd_imagenet", "wkd_f", "ResNet34-ResNet18"): 72.50,
    ("sdd_cifar100", "SD-DKD", "ResNet50-MobileNetV2"): 71.36,
    ("sdd_imagenet", "SD-NKD", "ResNet50-MobileNetV1"): 73.12,
    ("diffkd_imagenet", "diffkd", "ResNet34-ResNet18"): 72.20,
    ("srd_imagenet", "srd", "ResNet34-ResNet18"): 71.87,
    ("simkd_deeper", "SimKD+", "resnet32x4-resnet8x4"): 78.47,
    ("simkd_deeper", "SimKD++", "resnet32x4-resnet8x4"): 78.88,
    ("ttm_t1", "WTTM + ITRD", "resnet32x4-resnet8x4"): 77.36,
}
LATER = {"rld", "fcfd", "crld", "abkd", "eakd"}  # among the sources without a table, methods that are not here yet


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_tables(name: str) -> None:
    cells = [value for row in PUBLISHED.tables[name].top1.values() for value in row if value is not None]
    rows, count, total = SUMS[name]
    assert (len(PUBLISHED.tables[name].top1), len(cells)) == (rows, count)
    assert math.fsum(cells) == pytest.approx(total, abs=0.005)


def one(table: str, method: str, pair: str) -> Figure:
    (found,) = [f for f in ALL if (f.table, f.row, f.pair) == (table, method, pair)]
    return found


@pytest.mark.parametrize(
    ("table", "row", "pair", "top1"),
    [
        ("rep_t1", "kd", "resnet32x4-resnet8x4", 73.33),
        ("rep_t1", "crd", "vgg13-vgg8", 73.94),
        ("rep_t1", "teacher", "resnet56-resnet20", 72.34),
        ("rep_t1", "student", "resnet110-resnet32", 71.14),
        ("rep_t2", "ft", "ResNet50-MobileNetV2", 60.99),
        ("rep_t2", "crd", "wrn_40_2-ShuffleV1", 76.05),
        ("kdrefine_t1", "kdrefine", "vgg13-vgg8", 74.70),
        ("mdistiller_t1", "dkd", "wrn_40_2-wrn_16_2", 76.23),
        ("mdistiller_t2", "dkd", "resnet32x4-ShuffleV2", 77.07),
        ("mdistiller_imagenet", "dkd", "ResNet50-MobileNetV1", 72.05),
        ("dot_tiny", "kd+dot", "ResNet18-ShuffleV2", 65.75),
        ("lskd_t1", "lskd+mlkd", "resnet32x4-resnet8x4", 78.28),
        ("lskd_t2", "lskd", "wrn_40_2-MobileNetV2", 69.23),
        ("simkd_t1", "SimKD f=2", "resnet32x4-ShuffleV2_1_5", 79.54),
        ("simkd_imagenet", "simkd", "ResNet50-ResNet18", 71.66),
        ("simkd_deeper", "SimKD f=2", "resnet32x4-resnet8x4", 78.08),
        ("semckd_t1", "teacher", "wrn_40_2-MobileNetV2", 75.61),
        ("dist_imagenet_large", "KD (T=4)", "ResNet50-ResNet18", 71.35),
        ("ttm_t1", "ttm", "vgg13-vgg8", 74.33),
        ("ttm_t2", "wttm", "resnet32x4-ShuffleV2", 76.55),
        ("ttm_imagenet", "wttm", "ResNet50-MobileNetV1", 73.09),
        ("sdd_cifar100", "nkd", "ResNet50-vgg8", 74.01),
        ("reviewkd_imagenet", "reviewkd", "ResNet50-MobileNetV1", 72.56),
        ("lskd_imagenet", "lskd", "ResNet34-ResNet18", 71.45),
        ("ctkd_cifar100", "kd", "resnet110-resnet20", 70.66),
        ("norm_t1", "student, run by NORM", "resnet32x4-resnet8x4", 72.87),
        ("nkd_imagenet", "nkd", "ResNet34-ResNet18", 71.96),
        ("ctkd_imagenet", "ctkd", "ResNet34-ResNet18", 71.32),
    ],
)
def test_single_cells(table: str, row: str, pair: str, top1: float) -> None:
    assert one(table, row, pair).top1 == top1


@pytest.mark.parametrize(("table", "row", "pair"), TO_COME)
def test_rows_of_methods_to_come(table: str, row: str, pair: str) -> None:
    found = PUBLISHED.tables[table]
    assert found.top1[row][found.pairs.index(pair)] == TO_COME[table, row, pair]
    assert found.labels[row].method is None and not [f for f in ALL if (f.table, f.row) == (table, row)]


def test_no_label_hides_a_method_that_is_here() -> None:
    for name, table in PUBLISHED.tables.items():
        hidden = [row for row, label in table.labels.items() if label.method is None and row in DISTILLERS.names()]
        assert hidden == [], name


def test_students_alone_under_a_label_are_networks() -> None:
    found = one("norm_t2", "student, run by NORM", "ResNet50-vgg8")
    assert (found.method, found.network, found.top1) == (ALONE, "vgg8", 70.75)
    assert 70.75 in [f.top1 for f in find(ALL, "cifar100", ALONE, student="vgg8")]
    assert found not in find(ALL, "cifar100", ALONE, pair="ResNet50-vgg8", student="wrn_16_2")


def test_deviation_and_top5_stand_beside_their_figure() -> None:
    found = one("dist_cifar100", "dist", "resnet56-resnet20")
    assert (found.top1, found.deviation, found.top5) == (71.75, 0.30, None)
    assert one("ctkd_imagenet", "dkd", "ResNet34-ResNet18").top5 == 90.31
    assert one("sdd_imagenet", "nkd", "ResNet50-MobileNetV1").top5 == 90.80
    spreads = [("semckd_t1", "hkd", "vgg13-vgg8"), ("simkd_t1", "semckd", "resnet32x4-vgg8")]
    spreads += [("simkd_t1", "SimKD f=2", "resnet32x4-resnet8x4"), ("simkd_t1", "crd", "resnet32x4-vgg8")]
    assert [one(*cell).deviation for cell in spreads] == [0.24, 0.13, 0.15, None]
    assert {f.source for f in ALL if f.deviation is not None} == {
        name for name, source in PUBLISHED.sources.items() if source.deviation == "std"
    }


def test_nothing_stands_for_a_cell_that_is_not_published() -> None:
    assert not [f for f in ALL if (f.table, f.row, f.pair) == ("rep_t1", "fsp", "wrn_40_2-wrn_40_1")]


def test_pairs_exist_or_are_declared() -> None:
    known = pair_networks().keys()
    for name, table in PUBLISHED.tables.items():
        assert set(table.pairs) - known == set(table.other_pairs), name


def test_methods_are_registered_and_the_rest_says_why() -> None:
    for figure in ALL:
        assert [DISTILLERS.canonical(part) for part in parts_of(figure.method)] == parts_of(figure.method)
    for table in PUBLISHED.tables.values():
        assert all(label.why for label in table.labels.values() if label.method is None)
    assert all(DISTILLERS.canonical(name) == name for name in PUBLISHED.none.keys() - LATER)
    assert PUBLISHED.none.keys() > LATER and not {*DISTILLERS.names()} & LATER


def test_sources_have_recipes_and_say_which_epoch() -> None:
    for name, source in PUBLISHED.sources.items():
        assert (CONFIGS / "recipe" / f"{source.recipe}.yaml").is_file(), name
        assert source.reports or source.epoch, name
    assert {t.source for t in PUBLISHED.tables.values()} == PUBLISHED.sources.keys()


def test_every_table_is_documented() -> None:
    text = (CONFIGS.parent / "docs" / "tables.md").read_text()
    assert [name for name in PUBLISHED.tables if name not in text] == []


def test_find_by_pair_or_by_network() -> None:
    tables = [f.table for f in find(ALL, "cifar100", "kd", pair="vgg13-vgg8")]
    assert tables == ["rep_t1", "mdistiller_t1", "edkd_t1", "lskd_t1", "ctkd_cifar100", "semckd_t1"]
    assert [f.top1 for f in find(ALL, "cifar100", "dkd+lskd", pair="vgg13-vgg8")] == [74.81]
    alone = find(ALL, "cifar100", ALONE, student="resnet8x4")
    assert [(f.source, f.top1) for f in alone][:3] == [("repdistiller", 72.50), ("dist", 72.50), ("simkd", 73.09)]
    assert find(ALL, "cifar10", "kd", pair="vgg13-vgg8") == []


def test_arguments_choose_among_rows_of_a_method() -> None:
    for factor, top1 in ((2, 75.76), (4, 75.62), (8, 74.74)):
        found = find(ALL, "cifar100", "simkd", pair="resnet32x4-vgg8", method_args={"factor": factor})
        assert [f.top1 for f in found] == [top1]
    assert find(ALL, "cifar100", "simkd", pair="resnet32x4-vgg8", method_args={"factor": 3}) == []


def test_a_row_with_arguments_goes_before_the_method_without() -> None:
    def on_imagenet(**given: float) -> list[float]:
        found = find(ALL, "imagenet", "ctkd", pair="ResNet34-ResNet18", method_args={"ce_weight": 1.0, **given})
        return [f.top1 for f in found if f.table == "ctkd_imagenet"]

    assert on_imagenet(kd_weight=1.0) == [71.32]
    assert on_imagenet(kd_weight=0.0, dkd_alpha=1.0, dkd_beta=1.0) == [71.51]


def test_the_runs_recipe_chooses_unless_a_source_is_named() -> None:
    found = find(ALL, "cifar100", "kd", pair="resnet32x4-resnet8x4")
    chosen = [choose(found, recipe, None) for recipe in ("simkd", "mdistiller", "no such")]
    assert [(f.source, f.compared) for f in chosen if f] == [
        ("simkd", "best"),
        ("mdistiller", "best"),
        ("repdistiller", "last"),
    ]
    named = choose(found, "simkd", "simkd_one_run")
    assert named is not None and (named.top1, named.compared) == (74.76, "last")
    assert choose(found, "simkd", "dot") is None


def test_an_epoch_that_is_not_stated_is_compared_with_the_last() -> None:
    figure = one("dist_imagenet", "dist", "ResNet34-ResNet18")
    assert (figure.reports, figure.compared) == (None, "last")


def test_cells_by_any_spelling() -> None:
    figure, inside = cell(PUBLISHED, "rep_t1", "kd/res32x4_res8x4")
    assert (figure.top1, inside) == (73.33, True)
    figure, inside = cell(PUBLISHED, "rep_t1", "dkd/wrn40_2-wrn16_2")
    assert (figure.top1, figure.table, inside) == (76.23, "mdistiller_t1", False)
    for name in ("lskd+ctkd", "CTKD+LSKD", "CTKD + LS"):
        figure, inside = cell(PUBLISHED, "lskd_t1", f"{name}/vgg13_vgg8")
        assert (figure.top1, figure.method, inside) == (74.47, "lskd+ctkd", True)
    figure, _ = cell(PUBLISHED, "simkd_t1", "simkd/res32x4-vgg8")
    assert (figure.top1, figure.method_args) == (75.76, {"factor": 2})


@pytest.mark.parametrize(
    ("table", "words", "message"),
    [
        ("rep_t9", "kd/resnet56-resnet20", "unknown table 'rep_t9'; did you mean 'rep_t"),
        ("rep_t1", "kd", "expected METHOD/PAIR"),
        ("rep_t1", "kd/resnet56-resnet21", "did you mean 'resnet56-resnet20'"),
        ("rep_t1", "simkd/resnet56-resnet20", "no figure for simkd on resnet56-resnet20"),
        ("dot_tiny", "kd/resnet56-resnet20", "nothing is published for that pair"),
        ("norm_t1", "norm/vgg13-vgg8", "norm: norm_t1 has this row, but no method here does it (no norm here yet)"),
        ("simkd_deeper", "simkd++/res32x4-res8x4", "do not say which still deeper layers"),
        ("ttm_vit", "wttm/DeiTIIISmall-DeiTTiny", "ttm_vit has this pair, but configs/pairs.yaml has not"),
        ("dist_imagenet_large", "dist/resnet152-resnet18", "configs/pairs.yaml has not"),
        ("norm_t1", "vanilla/vgg13-vgg8", "no figure for vanilla"),
    ],
)
def test_wrong_cells_are_one_line(table: str, words: str, message: str) -> None:
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        cell(PUBLISHED, table, words)
    assert message in str(caught.value)


HEAD = """
sources: {a: {title: A, where: its README, reports: last, deviation: none, recipe: repdistiller}}
tables:
  t: {title: T, source: %s, dataset: cifar100, pairs: [vgg13-vgg8, resnet56-resnet20], top1: {kd: %s}%s}
"""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("a", "[1.0]", ""), "top1.kd has 1 figures for 2 pairs"),
        (("b", "[1.0, 2.0]", ""), "unknown source 'b'"),
        (("a", "[1.0, 200.0]", ""), "tables.t.top1.kd.1=200.0"),
        (("a", "[1.0, x]", ""), "tables.t.top1.kd.1"),
        (("a", "[1.0, 2.0]", ", tpo5: {}"), "unknown key 'tables.t.tpo5'"),
        (("a", "[1.0, 2.0]", ", deviation: {dkd: [.1, .1]}"), "no row 'dkd' in top1"),
        (("a", "[1.0, 2.0]", ", other_pairs: [vgg13-vgg9]"), "'vgg13-vgg9', which is not among pairs"),
        (("a", "[1.0, 2.0", ""), "cannot read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, values: tuple[str, str, str], message: str) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(HEAD % values)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        read_published(path)
    assert "published.yaml" in str(caught.value) and message in str(caught.value)
