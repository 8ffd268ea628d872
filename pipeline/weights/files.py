"""Files as what they hold: of torch (zip, legacy, tar) and safetensors. No pickle code of a file ever runs."""

import hashlib
import pickle
import re
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from pipeline.contracts import InputError
from pipeline.utils.untrusted_files import Unreadable
from pipeline.weights.allowed import ALLOWED
from pipeline.weights.limits import Bomb, check_size, check_tar, check_zip, sober
from pipeline.weights.sums import ENTRY, check_sum, parse_origin

RUN_FILE = "student.safetensors"
ZIP_MAGIC = b"PK\x03\x04"
COMMENTED = "its own comment"  # where checkpoints of ours have their sum
LONGEST = 600  # characters of a reason


def one_line(text: str) -> str:
    """`text`, in which names of a file may stand, in one line that a terminal shows as it is."""
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def refuse(path: str | Path, reason: str) -> InputError:
    """The error that says why `path` is not taken, in one line: keys come from the file."""
    return InputError(f"{_short(path)}: {one_line(reason)}")


def file_of(path: str | Path) -> Path:
    """The file itself, or a run folder's; a plain one. Raises InputError."""
    try:
        file = Path(path).expanduser()
        if file.is_dir():
            if not (file / RUN_FILE).exists():
                raise refuse(path, f"the folder holds no {RUN_FILE}; name a checkpoint file")
            file /= RUN_FILE
        kind = file.stat().st_mode
    except OSError as error:
        raise refuse(path, f"cannot be read ({error.strerror})") from None
    except (ValueError, RuntimeError) as error:  # a NUL in the name; a home that there is not
        raise refuse(path, f"cannot be read ({error})") from None
    # Opening a FIFO waits for a writer, and a device may have no end.
    if not stat.S_ISREG(kind):
        raise refuse(file, "is no plain file")
    return file


def read(file: Path) -> Any:
    """What a plain file holds: a dict of tensors (safetensors), or whatever was saved by torch. Raises InputError."""
    head = _head(file)
    try:
        check_size(file)
    except (Bomb, OSError) as error:
        raise refuse(file, str(error)) from None
    return _read_safetensors(file) if _is_safetensors(file, head) else _read_torch(file, head)


def read_origin(path: str | Path) -> dict[str, Any]:
    """What a file of ours says of its weights, without its tensors; {} for files of others and older ones.

    path: a file or run folder. Of student.safetensors (and whatever `sealed` made) the JSON with its sum, of our
    checkpoints {"description": ...}. Raises InputError: missing, no plain file, damaged.
    """
    file = file_of(path)
    head = _head(file)
    if _is_safetensors(file, head):
        try:
            with safetensors.safe_open(file, framework="pt") as content:
                return parse_origin(content.metadata(), str(file))
        except Unreadable as error:
            raise InputError(one_line(str(error))) from None
        except Exception as error:
            raise refuse(file, f"damaged, cut short or not a safetensors file ({error})") from None
    raw = _read_torch(file, head, values=False) if head.startswith(ZIP_MAGIC) else None
    if isinstance(said := getattr(raw, ENTRY, None), str):  # an exported state dict: nothing but tensors inside
        try:
            return parse_origin({ENTRY: said}, str(file))
        except Unreadable as error:
            raise InputError(one_line(str(error))) from None
    description = raw.get("description") if isinstance(raw, Mapping) else None
    return {"description": description} if isinstance(description, dict) else {}


def _short(path: str | Path) -> str:
    text = str(path)
    return one_line(text) if len(text) <= 4096 else f"{text[:100]}... ({len(text):,} characters)"


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(9)
    except OSError as error:
        raise refuse(file, f"cannot be read ({error.strerror})") from None


def _is_safetensors(file: Path, head: bytes) -> bool:
    # A length of eight bytes, then JSON.
    return file.suffix == ".safetensors" or (head[8:] == b"{" and not head.startswith(ZIP_MAGIC))


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as content:
            metadata = content.metadata()
        state = safetensors.torch.load_file(file, device="cpu")
        check_sum(metadata, state, str(file))
    except Unreadable as error:
        raise InputError(one_line(str(error))) from None
    except Exception as error:
        raise refuse(file, f"damaged, cut short or not a safetensors file ({error})") from None
    return state


def _read_torch(file: Path, head: bytes, *, values: bool = True) -> Any:
    """values: false leaves the tensors on the disk, unchecked, for a look at what else is there."""
    zipped = head.startswith(ZIP_MAGIC)
    # A parser of foreign bytes raises almost anything (KeyError on a text file, OSError on half a zip).
    try:
        # torch.load does not look at the checksums that torch.save wrote: a flipped bit would become a weight.
        damaged = _damaged(file, values) if zipped else None
        if not zipped:
            check_tar(file)
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED), sober():
            warnings.simplefilter("ignore")
            raw = torch.load(file, map_location="cpu", weights_only=True, mmap=not values)
    except Bomb as error:
        raise refuse(file, str(error)) from None
    except Exception as error:
        raise refuse(file, _why(error)) from None
    if damaged:
        raise refuse(file, f"damaged (wrong checksum in {damaged})")
    return raw


def _damaged(file: Path, values: bool) -> str | None:
    """The first entry of the archive whose checksum does not fit. Raises Bomb."""
    with zipfile.ZipFile(file) as archive:
        check_zip(archive, file.stat().st_size)
        # torch's own reader gives no bytes at all for what the directory calls a folder.
        folder = next((entry for entry in archive.infolist() if entry.is_dir() or entry.external_attr & 0x10), None)
        if folder is not None:
            return folder.filename
        if values:
            return COMMENTED if _comment_lies(file, archive.comment) else archive.testzip()
        for entry in archive.infolist():
            if entry.filename.endswith("/data.pkl"):
                archive.read(entry)  # raises BadZipFile
    return None


def _comment_lies(file: Path, comment: bytes) -> bool:
    """Whether the comment of an archive is a sum of all before it, as in checkpoints of ours, and does not fit."""
    if not comment.startswith(b"sha256:"):
        return False
    digest, left = hashlib.sha256(), file.stat().st_size - len(comment)
    with file.open("rb") as content:
        while piece := content.read(min(left, 1 << 20)):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest().encode() != comment[7:]


def _why(error: Exception) -> str:
    text = str(error)
    wanted = re.search(r"GLOBAL (\S+)", text)
    name = wanted[1] if wanted else "TorchScript" if "TorchScript" in text else None
    if name:
        return f"needs pickle code ({name}), which could do anything, so it is refused; save the state dict alone"
    if isinstance(error, pickle.UnpicklingError):
        return "not a checkpoint, damaged, or in need of pickle code, which is refused; save the state dict alone"
    return "damaged, cut short or not a checkpoint"
