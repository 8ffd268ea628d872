"""A run goes on by the formula that it began with, or says in one line why not."""

from pathlib import Path

import pytest
import short_runs
import torch
from safetensors.torch import load_file
from short_runs import after_step, finish, forge, refused, stop

from pipeline import train
from pipeline.distillers import DISTILLERS
from pipeline.run_folder import earlier_defaults, formulas, same_numbers

UNTAUGHT = ("teacher.model=resnet8", "teacher.checkpoint=none", "run.checkpoint_steps=1")
AT = ("method=at", *UNTAUGHT)
COMBINED = ("method=kd+at", *UNTAUGHT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return short_runs.make_data(tmp_path)


Patch = pytest.MonkeyPatch


def revise(monkeypatch: Patch, method: str, **variants: str) -> None:
    """As if `variants` computed something else since."""
    monkeypatch.setattr(DISTILLERS.get(method), "revised", variants)


def of_earlier_version(run: Path) -> None:
    """Its checkpoint keeps no formulas."""
    forge(run / "checkpoints" / "last.pt", lambda state: state.pop("formulas") and None)


@pytest.fixture
def other_default(monkeypatch: Patch) -> None:
    """As if `aligned` had been at's default before."""
    for module in (earlier_defaults, same_numbers, formulas):
        monkeypatch.setattr(module, "WAS_DEFAULT", {"at": "aligned"})


@pytest.mark.parametrize("method", [AT, COMBINED], ids=["alone", "combined"])
@pytest.mark.parametrize("noted", [True, False], ids=["noted", "earlier"])
def test_another_formula_is_refused(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Patch,
    method: tuple[str, ...],
    noted: bool,
) -> None:
    run = stop(root, "x", after_step(3), *method)
    if not noted:
        of_earlier_version(run)
    revise(monkeypatch, "at", matched="sum of the maps")
    error = refused(root, "x", capsys, *method)
    assert "at's variant matched of another version: it is now the sum of the maps" in error
    revise(monkeypatch, "at", aligned="sum of the maps")  # not the variant that is trained
    assert "resumed at step 3" in finish(root, "x", capsys, *method)


def test_a_run_by_the_new_formula_goes_on(root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch) -> None:
    revise(monkeypatch, "at", matched="sum of the maps")
    stop(root, "x", after_step(3), *AT)
    assert "resumed at step 3" in finish(root, "x", capsys, *AT)
    revise(monkeypatch, "at")
    stop(root, "y", after_step(3), *AT)
    revise(monkeypatch, "at", matched="sum of the maps")
    assert "of another version" in refused(root, "y", capsys, *AT)


@pytest.mark.parametrize("limit", [(), ("run.limit_steps=3",)], ids=["whole", "limited"])
def test_a_finished_run_stays_finished(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch, limit: tuple[str, ...]
) -> None:
    finish(root, "x", capsys, *AT, *limit)
    of_earlier_version(root / "x")
    revise(monkeypatch, "at", matched="sum of the maps")
    assert "already complete" in finish(root, "x", capsys, *AT, *limit)


def test_what_follows_a_first_stage_of_another_formula_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    words = ("method=fsp", *UNTAUGHT, "method_args.first_epochs=1", "method_args.first_lr=1e-6")
    stop(root, "x", lambda patch: patch.setattr(train, "Trainer", short_runs.killed), *words)
    of_earlier_version(root / "x" / "first_stage")
    revise(monkeypatch, "fsp", repdistiller="sum of the maps")
    assert "fsp's variant repdistiller of another version" in refused(root, "x", capsys, *words)


def test_an_earlier_default_goes_on(root: Path, capsys: pytest.CaptureFixture[str], other_default: None) -> None:
    run = stop(root, "x", after_step(3), *AT, "variant=aligned")
    of_earlier_version(run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("variant: aligned", "variant: default"))
    assert "variant aligned" in finish(root, "x", capsys, *AT)
    assert "variant: aligned" in config.read_text()
    finish(root, "x", capsys, *AT)  # once more, with the same words


def test_a_default_of_now_stays(root: Path, capsys: pytest.CaptureFixture[str], other_default: None) -> None:
    stop(root, "x", after_step(3), *AT)
    assert "at by variant matched, here aligned" in refused(root, "x", capsys, *AT, "variant=aligned")
    assert "variant default" in finish(root, "x", capsys, *AT)


def test_an_earlier_default_inside_a_combination_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], other_default: None
) -> None:
    run = stop(root, "x", after_step(3), *COMBINED)
    of_earlier_version(run)
    assert "at by variant aligned, here matched" in refused(root, "x", capsys, *COMBINED)


@pytest.mark.parametrize("noted", [None, [], {"at": 3}, {"at": [1, [2]]}, {"kd": ["paper", ""]}])
def test_other_notes_are_refused(root: Path, capsys: pytest.CaptureFixture[str], noted: object) -> None:
    run = stop(root, "x", after_step(3), *AT)
    forge(run / "checkpoints" / "last.pt", lambda state: state | {"formulas": noted})
    assert "does not fit this run" in refused(root, "x", capsys, *AT)


def test_earlier_defaults_are_variants_still() -> None:
    assert earlier_defaults.WAS_DEFAULT["ofd"] == "eval_teacher"
    for method, variant in earlier_defaults.WAS_DEFAULT.items():
        assert variant in list(DISTILLERS.get(method).variants)[1:]


def test_earlier_defaults_are_variants_and_not_the_default_of_now() -> None:
    for method, variant in earlier_defaults.WAS_DEFAULT.items():
        default, *others = DISTILLERS.get(method).variants
        assert variant in others and variant != default


@pytest.mark.parametrize("method", earlier_defaults.WAS_DEFAULT)
def test_runs_of_earlier_defaults_go_on_as_they_began(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch, method: str
) -> None:
    was = earlier_defaults.WAS_DEFAULT[method]
    words = (f"method={method}", *UNTAUGHT, "recipe=repdistiller")
    with monkeypatch.context() as patch:  # as the earlier version, which had this default and its weights
        kind = DISTILLERS.get(method)
        patch.setattr(kind, "variants", {was: "", **kind.variants})
        finish(root, "whole", capsys, *words)
        run = stop(root, "x", after_step(3), *words)
    of_earlier_version(run)
    assert f"variant {was}" in finish(root, "x", capsys, *words)
    found, wanted = (load_file(root / name / "student.safetensors") for name in ("x", "whole"))
    assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_variant_that_presets_named_for_a_pair_goes_on_as_the_default(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """hkd's presets named semckd where the stage lists differ in length."""
    words = ("method=hkd", *UNTAUGHT, "teacher.model=vgg8")
    of_earlier_version(stop(root, "x", after_step(3), *words, "variant=semckd"))
    assert "resumed at step 3" in finish(root, "x", capsys, *words)
    assert all(next(iter(DISTILLERS.get(m).variants)) == named for m, named in earlier_defaults.NAMED_DEFAULT.items())


def test_seeds_that_have_not_begun_go_by_the_default_of_those_that_have(
    root: Path, capsys: pytest.CaptureFixture[str], other_default: None
) -> None:
    words = (*AT, "seeds=2", "optim.epochs=1")
    run = stop(root, "x", after_step(1), *words, "variant=aligned")
    of_earlier_version(run / "seed0")
    config = run / "seed0" / "config.yaml"
    config.write_text(config.read_text().replace("variant: aligned", "variant: default"))
    assert not (run / "seed1").exists()
    assert "(variant default" not in finish(root, "x", capsys, *words)
    assert "variant: aligned" in (run / "seed1" / "config.yaml").read_text()
