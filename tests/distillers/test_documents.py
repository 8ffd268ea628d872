"""docs/methods.md and docs/migrating.md say what the code says."""

import re
from pathlib import Path

import pytest

from pipeline.config.base import Section
from pipeline.config.schema import EvaluateConfig, ExportConfig, TrainConfig
from pipeline.contracts import Signal
from pipeline.distillers import DISTILLERS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NAMES = DISTILLERS.names()
NEEDS = {"logits": Signal.LOGITS, "pooled": Signal.POOLED, "maps": Signal.FEATURES, "weights": Signal.WEIGHTS}
# Authors of the papers by arXiv number, at least as many as the shortest mention names.
AUTHORS = {
    "1412.6550": "Romero",
    "1503.02531": "Hinton",
    "1612.03928": "Zagoruyko and Komodakis",
    "1707.01219": "Huang and Wang",
    "1802.04977": "Kim",
    "1803.10837": "Passalis and Tefas",
    "1807.06819": "Lee",
    "1811.03233": "Heo",
    "1904.01802": "Peng",
    "1904.01866": "Heo",
    "1904.05068": "Park",
    "1904.05835": "Ahn",
    "1907.09682": "Tung and Mori",
    "1910.10699": "Tian",
    "2005.00727": "Passalis",
    "2012.02909": "Wang",
    "2012.03236": "Chen",
    "2104.09044": "Chen",
    "2106.05237": "Beyer",
    "2203.08679": "Zhao",
    "2203.14001": "Chen",
    "2205.10536": "Huang",
    "2211.16231": "Li",
    "2303.13005": "Yang",
    "2307.08436": "Zhao",
    "2311.13934": "Kim",
    "2311.14334": "Kim, Ham, Lee, Jang and Kim",
    "2402.11148": "Zheng and Yang",
    "2403.01427": "Sun",
}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def rows() -> dict[str, list[str]]:
    """The cells of each method's row, by name."""
    text = (DOCS / "methods.md").read_text().partition("## Logits")[2].partition("## What a variant cannot")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    return {quoted(row[0])[0]: row for row in cells}


ROWS = rows()


def test_every_method_has_one_row() -> None:
    assert sorted(ROWS) == NAMES and all(len(row) == 6 for row in ROWS.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_row_says_what_the_class_says(name: str) -> None:
    kind, (names, _, needs, _, variants, _) = DISTILLERS.get(name), ROWS[name]
    aliases = [alias for alias, of in DISTILLERS._aliases.items() if of == name]
    assert quoted(names) == [name, *aliases]
    assert quoted(variants) == list(kind.variants)
    words = set(needs.split(", ")) - {"nothing"}
    assert ("r" in words, "t" in words) == (kind.relates_samples, kind.teacher_pass)
    wanted = Signal.NONE
    for word in words - {"r", "t"}:
        wanted |= NEEDS[word]
    assert wanted == kind.needs


def test_papers_have_their_authors() -> None:
    folders = ((ROOT / "pipeline/distillers", "**/*.py"), (ROOT / "configs/method", "*.yaml"), (DOCS, "methods.md"))
    seen = set()
    for folder, pattern in folders:
        for file in sorted(folder.glob(pattern)):
            for line in file.read_text().splitlines():
                for number in re.findall(r"\b\d{4}\.\d{4,5}\b", line):
                    named = re.search(r"([A-Z][\w, ]+?)(?: et al\.)? (?:19|20)\d\d\b[^|.]*" + re.escape(number), line)
                    if number in AUTHORS and named:
                        seen.add(number)
                        assert AUTHORS[number] in named[1], (file.name, line)
    assert AUTHORS.keys() == seen


def keys_of(section: type[Section], prefix: str = "") -> set[str]:
    """All dotted keys of an entry point."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= keys_of(field.annotation, f"{prefix}{name}.")
    return found


@pytest.mark.parametrize("document", ["migrating.md", "methods.md"])
def test_every_key_of_a_document_exists(document: str) -> None:
    known = keys_of(TrainConfig) | keys_of(EvaluateConfig) | keys_of(ExportConfig) | {"model", "checkpoint"}
    arguments = {field for name in NAMES for field in DISTILLERS.get(name).Config.__dataclass_fields__}
    text = (DOCS / document).read_text()
    dotted = set(
        re.findall(r"(?<![\w./])((?:data|optim|run|log|runtime|teacher|student|method_args)\.[\w.]+)\b(?!/)", text)
    )
    used = {key.rstrip(".") for key in dotted if not key.endswith((".yaml", ".md", ".py", ".safetensors"))}
    parts = {key for key in used if key.startswith("method_args.")}
    assert {key.split(".")[-1] for key in parts} - {"KEY"} <= arguments
    assert used - parts <= known
    assert document != "migrating.md" or len(used) > 50


def test_names_in_the_columns_on_the_right_exist() -> None:
    text = (DOCS / "migrating.md").read_text()
    methods = {word for found in re.findall(r"\bmethod=([a-z0-9_+]+)", text) for word in found.split("+")}
    assert methods <= set(NAMES) and len(methods) > 12
    variants = {variant for name in NAMES for variant in DISTILLERS.get(name).variants}
    assert set(re.findall(r"\bvariant=(\w+)", text)) <= variants
    recipes = {path.stem for path in (DOCS.parent / "configs" / "recipe").glob("*.yaml")}
    assert set(re.findall(r"\brecipe=(\w+)", text)) <= recipes
