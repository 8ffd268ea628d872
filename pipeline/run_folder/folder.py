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

from pipeline.config import ConfigError, TrainConfig, flatten, read_yaml
from pipeline.contracts import InputError, unwritten
from pipeline.run_folder.checkpoint_file import Checkpoints
from pipeline.run_folder.lock import FolderLock
from pipeline.run_folder.metrics_file import Record
from pipeline.run_folder.same_numbers import differences
from pipeline.run_folder.summary import is_summary
from pipeline.utils.atomic import put_aside, write_atomically, write_json, write_text
from pipeline.utils.places import ROOT, VERSION, installed_configs
from pipeline.utils.plain_yaml import dump
from pipeline.utils.untrusted_files import Unreadable, read_json
from pipeline.weights import sealed

PACKAGES = ("torch", "torchvision", "numpy", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "ffcv", "apex")


class RunDir:
    """Paths and small files of one run. Only the leader writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        self.environment = folder / "environment.json"
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
        """Writes config.yaml, environment.json and description.json. Raises InputError when the folder holds a run of
        other numbers, or something in the place of a file; OSError.

        Keys that an earlier version did not know are recorded with the run, with the value that it had.
        """
        files = (self.config, self.environment, self.metrics, self.summary, self.student, self.description)
        for path in (*files, *sorted(self.checkpoints.folder.glob("*.pt"))):
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is no plain file")
        there = self._recorded()
        other = differences(there, config) if there is not None else []
        if other:
            on = f", or config={self.config} to go on as it began" if self.config.exists() else ""
            raise InputError(
                f"{self.folder} holds another run ({'; '.join(other)}): choose run.name, "
                f"or run.resume=never to set it aside{on}"
            )
        write_text(self.config, dump(config.model_dump(mode="json")))
        write_json(self.environment, environment())
        if description is not None and not self.description.exists():
            self.describe(description)

    def _recorded(self) -> dict[str, Any] | None:
        """Dotted keys of the run that is here, from its checkpoint where its config.yaml is gone; None where unknown.

        Raises InputError.
        """
        if self.config.exists():
            try:
                return flatten(read_yaml(self.config, TrainConfig))
            except ConfigError as error:
                raise InputError("; ".join(error.problems)) from None
        state, _ = self.checkpoints.load_last()
        found = state.get("config") if isinstance(state, dict) else None
        return found if isinstance(found, dict) else None

    def append(self, record: Record) -> None:
        """One more line of metrics.jsonl, on the disk when this returns."""
        with self.metrics.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def write_summary(self, summary: Record) -> None:
        """summary.json."""
        write_json(self.summary, summary)

    def read_summary(self) -> Any:
        """What a finished run left, any JSON, None when there is none. Raises Unreadable (a ValueError)."""
        return read_json(self.summary, finite=False) if self.summary.exists() else None

    def finished_summary(self) -> tuple[Record | None, list[str]]:
        """(the summary, None when there is none that can be used, what is to be said). A damaged one is set aside."""
        try:
            summary = self.read_summary()
            if summary is None or is_summary(summary):
                return summary, []
            reason = f"{self.summary} is no summary of a run"
        except Unreadable as error:
            reason = str(error)
        return None, [f"{reason}: kept as {put_aside(self.summary)}, and written again"]

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
    versions = {"stillhouse": VERSION}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cuda = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "versions": versions,
        **commit_of(ROOT),
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
    if installed_configs(source).is_dir():
        return {"git": None}  # a repository around an environment is another one
    told = subprocess.run(
        ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
    )
    return {"git": told.stdout.strip() or None}
