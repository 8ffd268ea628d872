"""The pages name what is there: links lead somewhere, paths exist, the index is whole, the picture is the test's."""

import re
from pathlib import Path

import pytest
from test_layering import ALLOWED, ENTRY_POINTS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
# Other repositories have folders called configs and tools, too.
NAMED = r"(?<![\w/.])((?:pipeline|launch|data_prep|tests|examples|setup)/[\w/.]*\w/?)(?![\w<*]|\.\.\.)"
# What a reader is to write, as examples.
IMAGINED = {
    "pipeline/distillers/logit_mse.py",
    "pipeline/distillers/repr_mse.py",
    "tests/distillers/test_NAME.py",
    "tests/distillers/test_logit_mse.py",
    "pipeline/datasets/blobs.py",
    "pipeline/models/plainnet.py",
}


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link
    missing = {name for name in re.findall(NAMED, text) if not (ROOT / name).exists()}
    assert missing <= IMAGINED


def test_the_index_lists_every_page_once() -> None:
    links = re.findall(r"\]\(([^)#\s]+\.md)\)", (DOCS / "README.md").read_text())
    assert len(links) == len(set(links))
    listed = {(DOCS / link).resolve() for link in links}
    assert listed == {p for p in DOCS.rglob("*.md") if p != DOCS / "README.md"} | {
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
    }


def test_the_picture_names_every_room() -> None:
    picture = (DOCS / "architecture.md").read_text().partition("## The picture")[2].partition("| folder |")[0]
    rooms = {*ALLOWED, *ENTRY_POINTS} - {"cli"}
    assert [room for room in sorted(rooms) if not re.search(rf"\b{room}\b", picture)] == []


def test_what_is_chosen_for_make_check_exists() -> None:
    chosen = re.search(r"^CHECKED := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert chosen is not None
    paths = chosen[1].replace("\\\n", " ").split()
    assert len(paths) > 5 and [path for path in paths if not (ROOT / path).exists()] == []


def test_the_workflows_call_make() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    called = [name for file in files for name in re.findall(r"\bmake ([\w-]+)$", file.read_text(), re.MULTILINE)]
    assert len(files) == len(called) == 2 and set(called) <= targets
