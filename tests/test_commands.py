"""The console script `stillhouse`, and what differs when the package is installed."""

import ast
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from launch import status
from launch.jobs import code_snapshot
from pipeline import cli
from pipeline.run_folder.folder import commit_of
from pipeline.utils import commands
from pipeline.utils.places import CONFIGS, INSTALLED, ROOT, VERSION

SOURCES = [p for folder in ("pipeline", "launch", "data_prep") for p in (ROOT / folder).rglob("*.py")]


def is_entry_point(path: Path) -> bool:
    """Whether a file has a main and a help text, and can be run."""
    text = path.read_text()
    if 'if __name__ == "__main__":' not in text or path.name == "commands.py":
        return False
    names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    return {"main", "help_text"} <= names


def test_each_entry_point_has_one_word() -> None:
    modules = [module for module, _ in commands.COMMANDS.values()]
    found = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in SOURCES if is_entry_point(p)]
    assert sorted(modules) == sorted(found)


def test_help_lists_every_command_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(commands.COMMANDS)
    assert max(len(line) for line in lines) <= 120


def test_a_reader_that_has_ended_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "pipeline.utils.commands", "--help"]
    done = subprocess.run(words, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_version_stands_in_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"stillhouse {VERSION}\n"
    assert VERSION not in (ROOT / "setup.cfg").read_text()


def test_an_unknown_word_is_refused_with_the_nearest_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["trian", "dataset=synthetic"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: unknown command 'trian'; did you mean 'train'? (known: train, ")
    assert err.count("\n") == 1


def test_a_word_runs_its_entry_point(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, commands.COMMANDS["scaling"][0], raising=False)
    monkeypatch.setattr(sys, "argv", ["stillhouse", "scaling", "--help"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == 0 and "gpus_per_node=" in capsys.readouterr().out


def test_of_an_installed_package_commands_are_shown_as_they_are_typed() -> None:
    text = "python pipeline/train.py a=1; torchrun --nproc-per-node 2 data_prep/cache_teacher.py; python my/own.py"
    typed = "stillhouse train a=1; torchrun --nproc-per-node 2 -m data_prep.cache_teacher; python my/own.py"
    assert commands.as_typed(text, installed=True) == typed
    assert commands.as_typed(text, installed=False) == text


def test_a_checkout_reads_its_own_configs() -> None:
    assert not INSTALLED and CONFIGS == ROOT / "configs"


def test_a_snapshot_of_installed_packages_holds_ours_alone(tmp_path: Path) -> None:
    """Its commit is not that of a repository which the environment lies in."""
    names = ["pipeline/train.py", "pipeline/configs/pairs.yaml", "launch/submit.py", "data_prep/__init__.py"]
    root = tmp_path / "site-packages"
    for name in [*names, "torch/x.py", "configs/others.yaml", "pipeline/__pycache__/train.pyc"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    who = ("-c", "user.name=a", "-c", "user.email=b")
    subprocess.run(["git", "-C", str(tmp_path), *who, "commit", "-q", "--allow-empty", "-m", "c"], check=True)
    assert code_snapshot.source_files(root) == sorted(names)
    taken = code_snapshot.take(tmp_path / "code", root)
    assert json.loads((taken / "SNAPSHOT.json").read_text())["git"] is None
    assert commit_of(root) == {"git": None}


@pytest.mark.parametrize("name", ["build", "runs", "quickstart"])
def test_git_sees_a_package_that_is_called_like_a_folder_of_results(name: str) -> None:
    """What git ignores is left out of the code that a job gets."""
    words = ["git", "-C", str(ROOT), "check-ignore", "--no-index"]
    assert subprocess.run([*words, f"pipeline/{name}/x.py"], capture_output=True).returncode == 1
    assert subprocess.run([*words, f"{name}/x.py"], capture_output=True).returncode == 0


@pytest.mark.parametrize("folder", ["pipeline", "launch", "data_prep"])
def test_an_interpreter_without_torch_is_one_line(folder: str) -> None:
    """-S: without site-packages."""
    for path in (p for p in SOURCES if p.parent == ROOT / folder and is_entry_point(p)):
        done = subprocess.run([sys.executable, "-S", "-E", path], capture_output=True, text=True)
        assert done.returncode == 2 and done.stdout == "", path
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (path, done.stderr)
        assert "torch" in done.stderr and "make setup" in done.stderr


def test_help_for_a_reader_that_has_ended_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:  # what is left to write raises nothing either
        monkeypatch.setattr("sys.stdout", closed)
        monkeypatch.setattr("sys.argv", ["status.py", "--help"])
        with pytest.raises(SystemExit) as end:
            cli.run(status.main, status.help_text, {})
    assert (end.value.code, capsys.readouterr().err) == (1, "")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment that this tree is installed in; it borrows what the package needs from this one."""
    folder = tmp_path_factory.mktemp("installed")
    copy_of = [*code_snapshot.source_files(ROOT), "setup.py", "pyproject.toml", "README.md"]
    for name in copy_of:
        (folder / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "tree" / name).write_bytes((ROOT / name).read_bytes())
    stale = folder / "tree" / "build" / "lib" / "pipeline" / "moved_since.py"  # pip builds here, on what it finds
    stale.parent.mkdir(parents=True)
    stale.touch()
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    places = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    ).stdout.strip()
    others = [p for p in sys.path if Path(p).name == "site-packages"]
    (Path(places) / "borrowed.pth").write_text("\n".join(others))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-build-isolation", "--no-index",
         "--ignore-installed", "--quiet", "--disable-pip-version-check", folder / "tree"],
        env=clean(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    templates = [p.relative_to(ROOT) for p in ROOT.glob("[pl]*/*/page.html")]
    assert len(templates) == 2 and all((Path(places) / name).is_file() for name in templates)
    assert not (Path(places) / "pipeline" / stale.name).exists()
    return python.parent


def clean() -> dict[str, str]:
    """The environment without what would find this tree."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


def at(folder: Path, *command: object) -> str:
    """What a command that succeeds prints, run in `folder`."""
    done = subprocess.run([str(c) for c in command], cwd=folder, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_console_script_trains_from_another_folder(installed: Path, tmp_path: Path) -> None:
    words = ("dataset=synthetic", "model=resnet8", "optim.epochs=1", "runtime.device=cpu", "run.limit_steps=4")
    assert at(tmp_path, installed / "stillhouse", "--version") == f"stillhouse {VERSION}\n"
    assert "stillhouse train dataset=cifar100" in at(tmp_path, installed / "stillhouse", "train", "--help")
    at(tmp_path, installed / "stillhouse", "train", *words, "run.name=a")
    at(tmp_path, installed / "python", "-m", "torch.distributed.run", "-m", "pipeline.train", *words, "run.name=b")
    at(tmp_path, sys.executable, ROOT / "pipeline" / "train.py", *words, "run.name=c")
    assert at(tmp_path, installed / "stillhouse", "table", "runs/a", "format=html").startswith("<!DOCTYPE html>")
    made = json.loads((tmp_path / "runs" / "a" / "environment.json").read_text())
    assert made["git"] is None and made["versions"]["stillhouse"] == VERSION
    assert Path(made["command"][0]).is_relative_to(installed.parent)
    a, b, c = ((tmp_path / "runs" / name / "student.safetensors").read_bytes() for name in "abc")
    assert a == b == c


@pytest.mark.slow
def test_a_job_of_an_installed_package_runs_a_copy_of_it(installed: Path, tmp_path: Path) -> None:
    words = ("dataset=synthetic", "model=resnet8", "optim.epochs=1", "runtime.device=cpu", "run.limit_steps=2")
    at(tmp_path, installed / "stillhouse", "submit", "cluster=local", "follow=true", *words, "run.name=x")
    code = tmp_path / "runs" / "x" / "job-1" / "code"
    made = json.loads((tmp_path / "runs" / "x" / "environment.json").read_text())
    assert made["command"][0] == str(code / "pipeline" / "train.py")
    assert made["snapshot_sha256"] == json.loads((code / "SNAPSHOT.json").read_text())["sha256"]
    assert sorted(p.name for p in code.iterdir()) == ["SNAPSHOT.json", "data_prep", "launch", "pipeline"]
