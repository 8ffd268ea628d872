"""Layer files of the user's own, in the folder that STILLHOUSE_CONFIGS names."""

from pathlib import Path

import pytest
from cli import call

from launch import submit
from launch.jobs import code_snapshot, submission
from launch.jobs.cluster import with_site
from launch.sweeps.file import sweep_path
from pipeline import train
from pipeline.config import ConfigError, layer_file
from pipeline.config.layer_folders import OWN

Capture = pytest.CaptureFixture[str]
WORDS = ["cluster=slurm", "submit.dry=true", "dataset=synthetic", "model=resnet8"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, a site and a sweep."""
    files = {"recipe/mine": "optim: {lr: 0.0123}", "cluster/desk": "{name: local}", "sweep/few": "seeds: 1"}
    for name, text in files.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text + "\n")
    monkeypatch.setenv(OWN, str(tmp_path / "own"))
    return tmp_path / "own"


def test_files_of_the_users_own_are_found_beside_ours(own: Path) -> None:
    assert layer_file("recipe", "mine") == {"optim": {"lr": 0.0123}}
    assert layer_file("recipe", "mdistiller")
    assert with_site({"name": "desk"}) == {"name": "local"}
    assert sweep_path("few") == own / "sweep" / "few.yaml"


def test_no_file_hides_one_of_ours(own: Path) -> None:
    (own / "recipe" / "mlkd.yaml").touch()
    with pytest.raises(ConfigError, match="there is a recipe mlkd already"):
        layer_file("recipe", "mine")


def test_a_typo_there_is_refused_with_the_files_path(own: Path, capsys: Capture) -> None:
    (own / "recipe" / "mine.yaml").write_text("optm: {lr: 1}\n")
    code, _, err = call(train, ["dataset=synthetic", "model=resnet8", "recipe=mine"], capsys)
    assert (code, err) == (2, f"error: {own}/recipe/mine.yaml: unknown key 'optm'; did you mean 'optim'?\n")


def test_a_folder_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv(OWN, "/no/such")
    code, _, err = call(train, ["dataset=synthetic", "model=resnet8"], capsys)
    assert (code, err) == (2, f"error: {OWN}=/no/such: no such folder\n")


def test_a_job_gets_a_copy_of_them(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among ours, counted in the checksum; the job looks for no other ones."""
    root = tmp_path / "root"
    (root / "configs" / "recipe").mkdir(parents=True)
    (root / "configs" / "recipe" / "a.yaml").touch()
    taken = code_snapshot.take(tmp_path / "code", root)
    assert (taken / "configs/recipe/mine.yaml").read_bytes() == (own / "recipe/mine.yaml").read_bytes()
    assert f" {OWN}= " in submission.python_command(taken)
    monkeypatch.delenv(OWN)
    assert OWN not in submission.python_command(taken)
    copied = code_snapshot.take(tmp_path / "copied", taken)
    assert (copied / "SNAPSHOT.json").read_text() == (taken / "SNAPSHOT.json").read_text()


def test_submit_checks_the_words_with_them(own: Path, capsys: Capture) -> None:
    code, out, err = call(submit, [*WORDS, "recipe=mine"], capsys)
    assert code == 0, err
    assert f"{OWN}= " in out
