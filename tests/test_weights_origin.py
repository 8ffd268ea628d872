"""What a file of ours says of its weights, and the sum over both: read back, and every flipped bit noticed."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from pipeline.contracts import InputError
from pipeline.run_folder.checkpoint_file import seal
from pipeline.run_folder.folder import RunDir
from pipeline.weights import read_origin, read_state, sealed, weights_hash

STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2), "n": torch.tensor(3)}
SAID = {"mean": [0.5, 1e-3], "names": ["ä", "b"], "sizes": {"10": 1, "9": 2}}
ORIGIN = {"dataset": "d", "seed": 0, "description": SAID}


def written(folder: Path, state: dict[str, Tensor] = STATE) -> Path:
    folder.mkdir(exist_ok=True)
    RunDir(folder).write_student(state, ORIGIN)
    return folder / "student.safetensors"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_state(path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path))
    return message


def test_what_is_said_is_read_back(tmp_path: Path) -> None:
    file = written(tmp_path / "run")
    for path in (file, tmp_path / "run", str(file)):
        found = read_origin(path)
        assert len(found.pop("sha256")) == 64 and found == ORIGIN
    assert weights_hash(read_state(file)) == weights_hash(STATE)


def test_description_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(seal({"model": STATE, "epoch": 3, "description": ORIGIN["description"]}))
    assert read_origin(tmp_path / "best.pt") == {"description": ORIGIN["description"]}
    (tmp_path / "last.pt").write_bytes(seal({"model": STATE, "description": "text"}))
    assert read_origin(tmp_path / "last.pt") == {}


def test_files_without_a_word_of_ours_say_nothing(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "zip.pth")
    torch.save(STATE, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save([1], tmp_path / "list.pth")
    safetensors.torch.save_file(STATE, tmp_path / "plain.safetensors")
    safetensors.torch.save_file(STATE, tmp_path / "other.safetensors", metadata={"format": "pt"})
    for file in tmp_path.iterdir():
        assert read_origin(file) == {}


def test_older_files_have_no_sum(tmp_path: Path) -> None:
    file = tmp_path / "student.safetensors"
    safetensors.torch.save_file(STATE, file, metadata={"stillhouse": json.dumps({"seed": 1})})
    assert read_origin(file) == {"seed": 1}
    assert weights_hash(read_state(file)) == weights_hash(STATE)


@pytest.mark.parametrize("said", ("{", "[1]", "3", '"x"', "[" * 50_000, '{"sha256": ' + "9" * 5000 + "}", '{"a": NaN}'))
def test_damaged_words_are_refused_in_one_line(said: str, tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "f.safetensors", metadata={"stillhouse": said})
    assert "damaged" in refusal(tmp_path / "f.safetensors")
    with pytest.raises(InputError, match="damaged") as caught:
        read_origin(tmp_path / "f.safetensors")
    assert "\n" not in str(caught.value)


def test_the_sum_covers_weights_and_words(tmp_path: Path) -> None:
    entry = sealed(ORIGIN, STATE)
    said = json.loads(entry["stillhouse"])
    others = {
        "values": (entry, STATE | {"n": torch.tensor(4)}),
        "types": (entry, STATE | {"fc.bias": torch.ones(2).int()}),
        "names": (entry, {"x" + key: value for key, value in STATE.items()}),
        "words": ({"stillhouse": json.dumps(said | {"seed": 1})}, STATE),
        "sum": ({"stillhouse": json.dumps(said | {"sha256": None})}, STATE),
    }
    for name, (metadata, state) in others.items():
        safetensors.torch.save_file(state, tmp_path / f"{name}.safetensors", metadata=metadata)
        assert "sum" in refusal(tmp_path / f"{name}.safetensors"), name


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = written(tmp_path / "run", {"fc.weight": torch.ones(2, 2)})
    good, wanted = file.read_bytes(), read_origin(file)
    for place in range(len(good)):
        file.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        try:
            state, said = read_state(file), read_origin(file)
        except InputError:
            continue
        assert torch.equal(state["fc.weight"], torch.ones(2, 2)) and said == wanted, place


@pytest.mark.parametrize("name", ('"sha256', '"stillhouse'))
def test_a_sum_whose_name_is_damaged_is_missed(name: str, tmp_path: Path) -> None:
    file = written(tmp_path / "run")
    good = file.read_bytes().replace(torch.ones(2).numpy().tobytes(), torch.zeros(2).numpy().tobytes())
    file.write_bytes(good.replace(name.encode(), name.replace("s", "r").encode()))
    assert "description is damaged" in refusal(file)


def test_a_checkpoint_of_ours_is_checked_whole(tmp_path: Path) -> None:
    good = seal({"model": STATE, "distiller": {}})
    file = tmp_path / "last.pt"
    file.write_bytes(good)
    assert weights_hash(read_state(file)) == weights_hash(STATE)
    place = good.rindex(b"data/0") - 8  # in the directory, of which zip has no checksum: a folder, says the bit
    for change in (place - 1, place - 2, place, len(good) - 1):
        file.write_bytes(good[:change] + bytes([good[change] ^ 16]) + good[change + 1 :])
        assert "damaged" in refusal(file)


def test_entries_that_are_said_to_be_folders(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "f.pth")
    good = (tmp_path / "f.pth").read_bytes()
    directory = good.index(b"PK\x01\x02")
    start = good.rindex(b"PK\x01\x02", directory, good.index(b"data/0", directory))
    changed = bytearray(good)
    changed[start + 38] |= 0x10  # its external attributes
    (tmp_path / "f.pth").write_bytes(changed)
    assert "damaged" in refusal(tmp_path / "f.pth")


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    assert written(tmp_path / "a").read_bytes() == written(tmp_path / "b", dict(reversed(STATE.items()))).read_bytes()
