"""The model card: what a served file is, where it comes from, how good and how large it is."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

UNKNOWN = "not known"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _per_cent(value: Any) -> str:
    return f"{value:.2f} %" if isinstance(value, int | float) else UNKNOWN


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _rows(rows: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items()), ""]


def _source(facts: Mapping[str, Any]) -> dict[str, Any]:
    run = facts["run"]
    return {
        "source": facts["checkpoint"],
        "source SHA-256": facts["checkpoint_sha256"],
        "data set": run.get("dataset") or facts["dataset"] or UNKNOWN,
        "method": run.get("method", UNKNOWN),
        "teacher": run.get("teacher") or "none or not known",
        "seed, epochs": f"{run.get('seed', UNKNOWN)}, {run['epochs']}" if "epochs" in run else UNKNOWN,
        "code": facts["commit"] or UNKNOWN,
    }


def _accuracy(facts: Mapping[str, Any]) -> dict[str, Any]:
    run = facts["run"]
    return {
        "top-1, last epoch": _per_cent(run.get("top1_last")),
        "top-5, last epoch": _per_cent(run.get("top5_last")),
        "top-1, best epoch": _per_cent(run.get("top1_best")),
        "measured on": facts["measured_on"],
        "these weights are": facts["weights"],
    }


def _size(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "parameters": f"{facts['parameters']:,} (training form {facts['parameters_training']:,})",
        "FLOPs per image": f"{facts['flops']:,} (a multiply-add counts two; convolutions and matrix products)",
        "file": f"{facts['file']}, {facts['bytes']:,} bytes",
        "file SHA-256": facts["sha256"],
    }


def _pixels(facts: Mapping[str, Any]) -> dict[str, Any]:
    data = facts["input"]
    return {
        "image": f"{data['image_size']} x {data['image_size']}, RGB, float32 [batch, 3, H, W]",
        "pixels": "divided by 255, minus mean, divided by std, per channel",
        "mean": _numbers(data["mean"]),
        "std": _numbers(data["std"]),
        "output": f"logits [batch, {facts['num_classes']}], classes as the data set numbers them",
    }


def card_text(facts: Mapping[str, Any]) -> str:
    """Markdown. facts: what `export` collected; see `pipeline/export.py`."""
    check = (
        f"The file was read back and run on {facts['check']['images']} random images: the largest difference to the "
        f"network it came from is {facts['check']['max_abs']:.2g}, which is {facts['check']['relative']:.2g} of the "
        f"largest logit (torch {torch.__version__}, CPU, float32)."
    )
    lines = [f"# {facts['model']}" + (" (deployed form)" if facts["deployed"] else ""), ""]
    tables = {"Source": _source, "Accuracy": _accuracy, "Size": _size, "Input and output": _pixels}
    for title, rows in tables.items():
        lines += [f"## {title}", "", *_rows(rows(facts))]
    lines += ["## Check", "", check, "", "## Licence", ""]
    return "\n".join([*lines, f"Weights: {facts['licence'] or 'not known; ask whoever trained them'}.", ""])


def summary_text(facts: Mapping[str, Any]) -> str:
    """What `to=summary` prints: a few lines for people, then one JSON object."""
    flops = facts["flops"]
    lines = [
        f"{facts['model']}, {facts['num_classes']} classes, {facts['image_size']} x {facts['image_size']} pixels",
        f"parameters        {facts['parameters']:>15,}",
        f"  deployed        {facts['parameters_deployed']:>15,}",
        f"FLOPs per image   {flops:>15,}   (a multiply-add counts two)",
        f"  deployed        {facts['flops_deployed']:>15,}",
        f"{'stage':10} {'map':>16}",
    ]
    for number, shape in enumerate(facts["stages"]):
        lines.append(f"{'stem' if number == 0 else number!s:10} {' x '.join(map(str, shape)):>16}")
    return "\n".join([*lines, json.dumps(dict(facts))])
