"""What lies beside weights: damaged records are one line before a file is written; only a run's folder is a run."""

import json
import shutil
from pathlib import Path

import cli
import pytest
import torch

from pipeline import evaluate, export
from pipeline.contracts import InputError
from pipeline.models.build import build
from pipeline.run_folder.description import Description, check_classes, parse
from pipeline.run_folder.student import known_of, run_folder, words_of

Capture = pytest.CaptureFixture[str]
PAST = Path(__file__).resolve().parent / "past" / "runs"
SAID = {
    "format": 1,
    "dataset": "cifar100",
    "networks": "cifar",
    "model": "resnet8",
    "block": None,
    "args": {},
    "num_classes": 2,
    "class_names": ["a", "b"],
    "data": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "image_size": 32,
        "eval_image_size": None,
        "crop": "pad",
        "resize": None,
        "eval_flip": False,
    },
    "method": "vanilla",
    "variant": "default",
    "method_args": {},
    "predictor": None,
}


@pytest.mark.parametrize("name", ("summary.json", "environment.json", "config.yaml"))
@pytest.mark.parametrize(
    "content", (b"", b"[]", b"{", b"\xff\xfe", b"[" * 5000, b'{"a": ' + b"9" * 5000 + b"}", b"- 1\n", None)
)
def test_a_damaged_record_is_refused_before_a_file_is_written(
    name: str, content: bytes | None, tmp_path: Path, capsys: Capture
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(PAST / "kd", run)
    out.mkdir()
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir() if content is None else (run / name).write_bytes(content)
    words = [f"checkpoint={run / 'checkpoints' / 'last.pt'}", "model=resnet8", f"out={out / 'x.safetensors'}"]
    code, _, err = cli.call(export, words, capsys)
    written = sorted(path.name for path in out.iterdir())
    if code == 0:  # nothing that is known of a run lies there: the card says so
        assert written == ["x.safetensors", "x.safetensors.md"]
    else:
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and written == []
    assert code == 2 or name == "config.yaml"


def test_a_folder_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(build("resnet8", num_classes=3).state_dict(), tmp_path / "w.pth")
    out = tmp_path / "out"
    out.mkdir()
    (out / "taken").mkdir()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    words = [f"checkpoint={tmp_path / 'w.pth'}", "model=resnet8", f"out={out / 'taken'}"]
    code, _, err = cli.call(export, words, capsys)
    assert code == 2 and "it is a folder" in err
    monkeypatch.setattr(export, "write_text", full)
    code, _, err = cli.call(export, [*words[:2], f"out={out / 'x'}"], capsys)
    assert code == 1 and err.splitlines()[-1].endswith("No space left on device")
    assert [path.name for path in out.iterdir()] == ["taken"]


def test_a_stray_config_is_no_run(tmp_path: Path, capsys: Capture) -> None:
    """A /config.yaml was taken for the run of any /tmp/x.pth."""
    shutil.copy(PAST / "kd" / "config.yaml", tmp_path / "config.yaml")
    (tmp_path / "tmp" / "deep").mkdir(parents=True)
    for place in ("tmp/x.pth", "tmp/deep/x.pth"):
        torch.save({}, tmp_path / place)
        assert run_folder(tmp_path / place) is None and words_of(known_of(tmp_path / place), []) == []
    (tmp_path / "tmp" / "config.yaml").write_text("model: x\n")  # others' files have that name, too
    assert run_folder(tmp_path / "tmp" / "x.pth") is None


@pytest.mark.parametrize("file", ("", "checkpoints/last.pt", "checkpoints/best.pt"))
def test_an_old_run_says_what_it_said(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = PAST / "simkd"
    assert run_folder(run / file) == run
    known = known_of(run / file)
    assert known is not None and known.description is None and known.config["method"] == "simkd"
    words = words_of(known, [])
    assert 'student.model="resnet8"' in words and any(word.startswith("data.mean=") for word in words)
    other = words_of(known, ["dataset=folder"])
    assert not any(word.startswith("data.") for word in other)
    monkeypatch.chdir(run / "checkpoints")
    assert run_folder("last.pt") == run


@pytest.mark.parametrize(
    "change",
    (
        {"format": 2},
        {"format": "1"},
        {"num_classes": 3},
        {"num_classes": 0},
        {"model": None},
        {"data": {}},
        {"data": {**SAID["data"], "std": [0, 1, 1]}},  # type: ignore[dict-item]
        {"data": {**SAID["data"], "mean": [0.5]}},  # type: ignore[dict-item]
        {"class_names": "ab"},
        {"predictor": "simkd"},
        {"extra": 1},
        {"args": []},
    ),
)
def test_a_damaged_description_is_one_line(change: dict[str, object], tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(InputError) as refused:
        parse(SAID | change, "x.pt: its description")
    assert "\n" not in str(refused.value) and str(refused.value).startswith("x.pt: its description")
    torch.save({"model": build("resnet8", num_classes=2).state_dict(), "description": SAID | change}, tmp_path / "x.pt")
    for module in (evaluate, export):
        code, _, err = cli.call(
            module, [f"checkpoint={tmp_path / 'x.pt'}", f"out={tmp_path / 'o'}"][: 1 + (module is export)], capsys
        )
        assert code == 2 and err.count("\n") == 1 and "its description" in err


def test_a_description_comes_back_as_it_was() -> None:
    one = parse(json.dumps(SAID), "x")
    assert isinstance(one, Description) and parse(one.plain(), "x") == one
    assert one.keys()["data.mean"] == [0.5, 0.5, 0.5] and one.data.interpolation == "bilinear"


def test_names_of_classes() -> None:
    assert check_classes(("a", "b"), ("a", "b"), "x") is None
    assert check_classes((), ("a", "b"), "x") is None
    assert str(check_classes(("a", "b"), ("a", "c"), "x")).startswith("warning: x has other class names")
    with pytest.raises(InputError, match="in another order"):
        check_classes(("a", "b"), ("b", "a"), "x")
    undecodable = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert check_classes((r"caf\xe9", "b"), (undecodable, "b"), "x") is None
