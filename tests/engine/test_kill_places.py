"""Runs that end at the worst places of an epoch, or whose newest checkpoints are lost, end as the unbroken one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import short_runs
from short_runs import Capture, after_step, finish, flip, killed, make_data, stop
from test_resume import assert_same_run, records

from pipeline.run_folder import checkpoint_file
from pipeline.run_folder.checkpoint_file import Checkpoints, unseal
from pipeline.run_folder.folder import RunDir

Patch = Callable[[pytest.MonkeyPatch], object]


def at_call(owner: object, name: str, number: int) -> Patch:
    """Ends a run at the number-th call of a function, before it does anything."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        before, calls = getattr(owner, name), iter(range(1, 1000))
        monkeypatch.setattr(owner, name, lambda *a, **k: killed() if next(calls) == number else before(*a, **k))

    return patch


PLACES: dict[str, tuple[object, str]] = {
    "before the best weights": (Checkpoints, "save_best"),
    "after the best weights, before the line": (RunDir, "append"),
    "between the line and the checkpoint": (Checkpoints, "save_last"),
    "inside the checkpoint": (checkpoint_file, "write_atomically"),
    "between last.pt and best.pt": (Checkpoints, "publish_best"),
    "before the student": (RunDir, "write_student"),
    "before the summary": (RunDir, "write_summary"),
}


ONCE = ("before the best weights", "before the student", "before the summary")  # in a run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def unbroken(root: Path) -> Path:
    train = short_runs.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py"])
        train.main(short_runs.words(root, "unbroken"))
    return root / "unbroken"


def assert_ends_like(broken: Path, unbroken: Path) -> None:
    assert_same_run(unbroken, broken)
    assert [record["epoch"] for record in records(broken)] == [1, 2, 3]
    a, b = (unseal(run / "checkpoints" / "best.pt") for run in (broken, unbroken))
    assert (a["epoch"], a["top1"]) == (b["epoch"], b["top1"])
    left = {p.name for p in broken.rglob("*")} - {p.name for p in unbroken.rglob("*")}
    assert left == set()


@pytest.mark.parametrize(
    ("place", "call"), [(place, call) for place in PLACES for call in (1, 2) if call == 1 or place not in ONCE]
)
def test_killed_at_the_worst_places(place: str, call: int, root: Path, unbroken: Path, capsys: Capture) -> None:
    name = f"{place} {call}".replace(" ", "-")
    broken = stop(root, name, at_call(*PLACES[place], call))
    finish(root, name, capsys)
    assert_ends_like(broken, unbroken)


def test_killed_between_pending_and_last(root: Path, unbroken: Path, capsys: Capture) -> None:
    broken = stop(root, "pending", at_call(checkpoint_file, "twin", 1))
    assert (broken / "checkpoints" / "pending.pt").exists()
    finish(root, "pending", capsys)
    assert_ends_like(broken, unbroken)


def test_both_checkpoints_damaged(root: Path, unbroken: Path, capsys: Capture) -> None:
    broken = stop(root, "both", after_step(5))
    flip(broken / "checkpoints" / "last.pt")
    flip(broken / "checkpoints" / "previous.pt")
    assert "there is no other" in finish(root, "both", capsys)
    assert_ends_like(broken, unbroken)


def test_best_is_of_a_closed_epoch_on_other_ranks_too(tmp_path: Path) -> None:
    """A new best of an epoch that is run again, where it turns out worse, must not replace the one before."""
    files = Checkpoints(tmp_path)
    files.save(files.best, {"epoch": 1})
    files.save_best({"epoch": 2})
    files.settle_best(1)
    assert unseal(files.best)["epoch"] == 1 and not files.next_best.exists()
    files.save_best({"epoch": 2})
    files.settle_best(2)
    assert unseal(files.best)["epoch"] == 2 and not files.next_best.exists()
    files.settle_best(0)
    assert not files.best.exists()


@pytest.mark.parametrize("method", ["ft", *(pytest.param(m, marks=pytest.mark.slow) for m in ("ab", "fsp", "fitnet"))])
def test_a_first_stage_is_not_skipped(method: str, root: Path, capsys: Capture) -> None:
    """The main stage's only checkpoint is damaged: what the first stage trained is still there."""
    variant = "paper" if method == "fitnet" else "default"
    more = (*short_runs.TAUGHT, f"method={method}", f"variant={variant}", "optim.epochs=1")
    finish(root, f"{method}-unbroken", capsys, *more)
    broken = stop(root, f"{method}-broken", after_step(1), *more)
    flip(broken / "checkpoints" / "last.pt")
    finish(root, f"{method}-broken", capsys, *more)
    assert_same_run(root / f"{method}-unbroken", broken)
    assert_same_run(root / f"{method}-unbroken" / "first_stage", broken / "first_stage")
