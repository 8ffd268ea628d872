"""What a run folder says about its student: keys for entry points that get only its checkpoint, and its record."""

import json
from pathlib import Path
from typing import Any

from pipeline.config import ConfigError, flatten, read_yaml
from pipeline.deployment.card import sha256_of

CHECKPOINT = ("checkpoint=", "student.checkpoint=")
MODEL = ("model=", "student.model=")
DATASET = ("dataset=",)
DEPTH = 3  # run/, run/student.safetensors, run/checkpoints/best.pt
STUDENT_KEYS = ("student.model", "student.block", "networks")
DATA_KEYS = (
    *("dataset", "data.mean", "data.std", "data.image_size", "data.eval_image_size"),
    *("data.crop", "data.resize", "data.eval_flip"),
)


def run_folder(checkpoint: str) -> Path | None:
    """The run folder that `checkpoint` is or lies in, None for a file of others."""
    path = Path(checkpoint).expanduser()
    for folder in [path, *path.parents][:DEPTH]:
        if (folder / "config.yaml").is_file():
            return folder
    return None


def words_of_run(argv: list[str]) -> list[str]:
    """key=value words that the run of checkpoint= adds: its student unless a model is given; how it looks at its data
    unless another data set is given."""
    given = [word.partition("=")[2] for word in argv if word.startswith(CHECKPOINT)]
    folder = run_folder(given[-1]) if given else None
    if folder is None:
        return []
    try:
        content = read_yaml(folder / "config.yaml")
    except ConfigError:
        return []  # whatever lies there is no run of ours
    keys = flatten(content) if "student" in content else {}
    wanted = [] if any(word.startswith(MODEL) for word in argv) else [*STUDENT_KEYS]
    other = [word.partition("=")[2] for word in argv if word.startswith(DATASET)][-1:]
    wanted += [*DATA_KEYS] if other in ([], [keys.get("dataset")]) else []
    if STUDENT_KEYS[0] in wanted:
        wanted += [key for key in keys if key.startswith("student.args.")]
    return [f"{key}={json.dumps(keys[key])}" for key in wanted if keys.get(key, {}) != {}]


def read_record(checkpoint: str) -> dict[str, Any]:
    """Where weights come from: run (its summary), weights (last, best), commit, checkpoint and its SHA-256."""
    path, folder = Path(checkpoint).expanduser(), run_folder(checkpoint)
    file = path / "student.safetensors" if path.is_dir() else path
    record: dict[str, Any] = {"run": {}, "commit": None, "weights": "as found in the file", "checkpoint": checkpoint}
    record["checkpoint_sha256"] = sha256_of(file) if file.is_file() else "not a file"
    if folder is None:
        return record
    for name, target in (("summary.json", "run"), ("environment.json", "environment")):
        if (folder / name).is_file():
            record[target] = json.loads((folder / name).read_text())
    record["commit"] = record.pop("environment", {}).get("git")
    record["weights"] = "those of the best epoch" if file.stem == "best" else "those of the last epoch"
    return record
