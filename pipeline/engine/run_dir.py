"""A run is its folder: names, lock, records."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.config import TrainConfig, flatten, read_yaml
from pipeline.config.data_keys import LATER
from pipeline.contracts import InputError, unwritten
from pipeline.engine.checkpoint import Checkpoints
from pipeline.engine.earlier import EARLIER
from pipeline.engine.run_lock import FolderLock
from pipeline.files import put_aside, write_atomically, write_json, write_text
from pipeline.plain_yaml import dump
from pipeline.weights import sealed

PACKAGES = ("torch", "torchvision", "numpy", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "ffcv", "apex")
Record = dict[str, Any]


class RunDir:
    """Paths and small files of one run. Only the leader writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.metrics = folder / "metrics.jsonl"
        self.summary = folder / "summary.json"
        self.student = folder / "student.safetensors"
        self.description = folder / "description.json"
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.lock = FolderLock(folder)
        self._fresh = False

    @property
    def begun(self) -> bool:
        """Whether there is anything of a run in the folder."""
        return self.config.exists() or any(self.checkpoints.folder.glob("*.pt"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder and holds it against a second process, unless this one holds it already.

        Raises InputError when it is in use, NotWritten.
        """
        if self.lock.held:
            yield
            return
        self.lock.take()
        try:
            self._make_checkpoints()
            yield
        finally:
            self.lock.release()

    def _make_checkpoints(self) -> None:
        try:
            self.checkpoints.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(f"cannot write to the run folder {self.folder}", error) from None

    def set_aside(self) -> Path | None:
        """Renames an existing folder to <name>.old-N, once, for run.resume=never. Returns the new name.

        Raises InputError when another process trains in it; a folder that this process holds is held anew.
        """
        if self._fresh or not self.begun:
            return None
        self._fresh = True
        held = self.lock.held
        with self.locked():
            try:
                aside = put_aside(self.folder)
            except OSError as error:
                raise unwritten(f"cannot rename {self.folder}", error) from None
            self.lock.forget()
        if held:
            self.lock.take()
            self._make_checkpoints()
        return aside

    def claim(self, config: TrainConfig, description: Mapping[str, Any] | None = None) -> None:
        """Writes config.yaml, environment.json and description.json.

        Raises InputError when the folder holds a run of other numbers.
        """
        if self.config.exists():
            there = flatten({"data": LATER}) | EARLIER | flatten(read_yaml(self.config, TrainConfig))
            here = flatten(config.model_dump(mode="json"))
            numbers = flatten(config.numbers())
            other = [
                f"{k} {_plain(there.get(k))} there, {_plain(here.get(k))} here"
                for k in numbers
                if k != "pair" and there.get(k) != here.get(k)
            ]
            if other:
                raise InputError(
                    f"{self.folder} holds another run ({'; '.join(other)}): choose run.name, "
                    "or run.resume=never to set it aside"
                )
        write_text(self.config, dump(config.model_dump(mode="json")))
        write_json(self.folder / "environment.json", environment())
        if description is not None and not self.description.exists():
            self.describe(description)

    def records(self, epochs: int) -> list[Record]:
        """The first `epochs` lines of metrics.jsonl; later lines (of epochs that are run again) are cut off."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a writer was killed inside the line
                records.append(json.loads(line))
        kept = [r for r in records if r["epoch"] <= epochs]
        text = "".join(json.dumps(r) + "\n" for r in kept)
        write_text(self.metrics, text)
        return kept

    def append(self, record: Record) -> None:
        """One more line of metrics.jsonl, on the disk when this returns."""
        with self.metrics.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def write_summary(self, summary: Record) -> None:
        """summary.json."""
        write_json(self.summary, summary)

    def read_summary(self) -> Record | None:
        """What a finished run left, None when there is none."""
        return json.loads(self.summary.read_text()) if self.summary.exists() else None

    def write_student(self, state: dict[str, torch.Tensor], origin: dict[str, Any]) -> None:
        """student.safetensors: the weights that inference uses, where they come from, and a sum over both."""
        from safetensors.torch import save

        plain = {k: v.detach().cpu().contiguous() for k, v in state.items()}
        content = save(plain, metadata=sealed(origin, plain))
        write_atomically(self.student, content)
        if "description" in origin:
            self.describe(origin["description"], {self.student.name: hashlib.sha256(content).hexdigest()})

    def describe(self, description: Mapping[str, Any], sums: Mapping[str, str] | None = None) -> None:
        """description.json: what the run's network is, and the SHA-256 of its file once there is one."""
        write_json(self.description, {"description": description, "sha256": dict(sums or {})})


def environment() -> dict[str, Any]:
    """Versions, commit and hardware of this process."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    source = Path(__file__).resolve().parents[2]
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "versions": versions,
        **commit_of(source),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
        "ranks": int(os.environ.get("WORLD_SIZE", 1)),
        "command": sys.argv,
    }


def commit_of(source: Path) -> dict[str, Any]:
    """The commit of the code in `source`; for a job's copy what was noted when it was made, with its checksum."""
    with contextlib.suppress(FileNotFoundError):
        made = json.loads((source / "SNAPSHOT.json").read_text())
        return {"git": made["git"], "snapshot_sha256": made["sha256"]}
    told = subprocess.run(
        ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
    )
    return {"git": told.stdout.strip() or None}


def _plain(value: Any) -> Any:
    """`value` with tuples as lists, recursively: what YAML and JSON can hold."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
