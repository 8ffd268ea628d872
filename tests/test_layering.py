"""The arrows of the design: who may import whom, how long a file may be, and no name of the standard library."""

import ast
import functools
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(p for folder in ("pipeline", "launch", "data_prep") for p in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
TOOLS = sorted(p for folder in ("tools", "examples") for p in (ROOT / folder).rglob("*.py"))
# The picture, from the ground up. A room is a folder of pipeline/ or a file at its top; it may import itself, the
# leaves and the rooms named, all of which stand above it in this table.
LEAVES = {"utils", "signals"}
GROUND = {"contracts", "registry", "config", "views"}
PARTS = {"datasets", "models", "distillers", "teachers"}
ALLOWED: dict[str, set[str]] = {
    **{room: set() for room in LEAVES | GROUND},
    **dict.fromkeys(PARTS | {"deployment"}, GROUND),
    "loaders": GROUND | {"datasets"},
    "process": {"contracts"},
    "weights": {"contracts"},
    "run_folder": GROUND | {"weights", "deployment"},
    "engine": GROUND | {"process", "run_folder"},
    "builders": GROUND | PARTS | {"loaders", "weights", "run_folder", "engine"},
    "cli": GROUND | {"process"},
}
# Of pipeline/ these may import everything; of the project launch/ and data_prep/ may.
ENTRY_POINTS = {"train", "evaluate", "benchmark", "export", "visualize", "measure", "pictures"}
# Rooms within a room, in the same way: what they may import of it besides themselves. Its own files may import them.
INNER: dict[str, dict[str, set[str]]] = {
    "pipeline.engine": {
        "graph": set(),
        "optimizers": set(),
        "distributed": {"graph"},
        "reporting": {"distributed"},
        "seeds": {"distributed", "reporting"},
    },
    "launch": {
        "jobs": set(),
        "tables": set(),
        "monitor": {"jobs", "tables"},
        "sweeps": {"jobs", "tables"},
    },
}
TOPS = {"pipeline": 10, "launch": 8, "pipeline/engine": 18}


def part_of(path: Path) -> str:
    """'engine' for pipeline/engine/x.py and 'train' for pipeline/train.py; the folder for launch/ and data_prep/."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if relative.parts[0] != "pipeline" else relative.with_suffix("").parts[1]


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Dotted names of project modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"pipeline", "launch", "data_prep"}}


def arrow_faults(path: Path) -> list[str]:
    """Imports of a file against the picture."""
    own = part_of(path)
    faults = []
    for name in imports_of(path):
        top, *rest = name.split(".")
        other = rest[0] if top == "pipeline" and rest else top
        if own in {"launch", "data_prep"} or other in {own, *LEAVES}:
            continue
        if own in ENTRY_POINTS:
            if top != "pipeline":
                faults.append(f"{path.name} imports {name}: pipeline may not import {top}")
        elif own != "__init__" and (top != "pipeline" or other not in ALLOWED[own]):
            faults.append(f"{path.relative_to(ROOT)} imports {name}")
    return faults


def inner_faults(path: Path) -> list[str]:
    """Imports between rooms within a room against the picture."""
    *outer, own = path.relative_to(ROOT).parts[:-1]
    house = ".".join(outer)
    if house not in INNER:
        return []
    rooms = {own, *INNER[house][own]}
    inside = [name for name in imports_of(path) if name.startswith(f"{house}.")]
    return [f"{path} imports {name}" for name in inside if name.removeprefix(f"{house}.").split(".")[0] not in rooms]


def entry_points() -> set[str]:
    """Dotted names of the modules that are run as programs, without the one that calls all others."""
    found = {path for path in SOURCES if '\nif __name__ == "__main__":' in path.read_text()}
    return {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found} - {"pipeline.utils.commands"}


def test_entry_points_are_run_and_imported_by_none() -> None:
    """By no module of pipeline/ and launch/: what two of them need lies in a room below."""
    entries = entry_points()
    assert len(entries) > 15
    faults = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] != "data_prep"
        for name in imports_of(path)
        if name in entries or name.rpartition(".")[0] in entries
    ]
    assert faults == []


def test_every_import_follows_an_arrow() -> None:
    assert len(SOURCES) > 30
    assert [fault for path in SOURCES for fault in (*arrow_faults(path), *inner_faults(path))] == []


def test_no_arrow_goes_back_up() -> None:
    for table in (ALLOWED, *INNER.values()):
        seen: set[str] = set()
        for room, others in table.items():
            assert others <= seen, room
            seen.add(room)


@pytest.mark.parametrize(("folder", "most"), TOPS.items())
def test_the_top_of_a_folder_is_short(folder: str, most: int) -> None:
    assert len(list((ROOT / folder).glob("*.py"))) <= most


def test_a_forbidden_import_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    bad = tmp_path / "pipeline" / "models" / "x.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("from pipeline.distillers.kd import KD\nfrom launch import submit\nimport pipeline.contracts\n")
    assert len(arrow_faults(bad)) == 2


def test_no_module_is_named_like_the_standard_library() -> None:
    top = {p.stem for p in (ROOT / "pipeline").iterdir() if p.suffix == ".py" or p.is_dir()}
    assert top & set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("path", SOURCES + TESTS + TOOLS, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300, "longer than 300 lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, f"{node.name} is longer than 50 lines"


def test_ddp_and_compile_live_in_one_place() -> None:
    users = [p for p in SOURCES if "DistributedDataParallel" in p.read_text() or ".compile(mode" in p.read_text()]
    assert [p.name for p in users] == ["parallel.py"]


def test_no_branch_on_a_name() -> None:
    names = {p.stem for folder in ("method", "dataset") for p in (ROOT / "configs" / folder).glob("*.yaml")}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                values = {c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)}
                assert not values & names, f"{path}:{node.lineno} compares with {values & names}"


def test_entry_points_import_the_package_before_torch() -> None:
    """Torch's threads read at import how long they may spin: pipeline/__init__.py says it."""
    entries = [path for path in SOURCES if "    sys.path[0] = " in path.read_text()]
    assert len(entries) > 10
    for path in entries:
        imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        tops = [(node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or "" for node in imports]
        first = {name: tops.index(name) for name in reversed(tops)}
        ours = min(place for name, place in first.items() if name.split(".")[0] in {"pipeline", "launch", "data_prep"})
        theirs = [
            place for name, place in first.items() if name.split(".")[0] in {"torch", "torchvision", "safetensors"}
        ]
        assert ours < min(theirs, default=ours + 1), path
