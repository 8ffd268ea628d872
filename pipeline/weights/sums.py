"""The sum of a file of ours: over its weights and over what it says of them, in its one metadata entry."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.utils.untrusted_files import Unreadable, parse_json

ENTRY = "stillhouse"
SUM = "sha256"
NEAR = 2  # characters


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """sha256 over sorted keys, dtypes, shapes and values; device and memory format do not matter."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}\t{value.dtype}\t{tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sealed(origin: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, str]:
    """The metadata of a safetensors file with these weights: `origin` as JSON, with a sum over both.

    One entry only: the library writes several in a random order, and equal runs shall give equal files.
    """
    said = json.loads(json.dumps(dict(origin)))
    return {ENTRY: json.dumps(said | {SUM: _sum(said, state)})}


def parse_origin(metadata: Mapping[str, str] | None, source: str) -> dict[str, Any]:
    """What `sealed` was given, and the sum where there is one; {} in files of others. Raises Unreadable, also where the
    entry or the sum seems to be ours under a name that has lost a bit."""
    found = metadata or {}
    if ENTRY not in found:
        if any(_nearly(name, ENTRY) for name in found):
            raise Unreadable(f"{source}: its description is damaged")
        return {}
    said = parse_json(found[ENTRY], f"{source}: its description")
    if not isinstance(said, dict) or (SUM not in said and any(_nearly(name, SUM) for name in said)):
        raise Unreadable(f"{source}: its description is damaged")
    return said


def _nearly(name: str, wanted: str) -> bool:
    return len(name) == len(wanted) and sum(a != b for a, b in zip(name, wanted, strict=True)) <= NEAR


def check_sum(metadata: Mapping[str, str] | None, state: Mapping[str, Tensor], source: str) -> None:
    """Raises Unreadable where the sum does not fit; files without one, of others or older, pass."""
    said = parse_origin(metadata, source)
    if SUM in said and said.pop(SUM) != _sum(said, state):
        raise Unreadable(f"{source}: damaged (its sum does not fit its content)")


def _sum(said: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    text = json.dumps(said, sort_keys=True)
    return hashlib.sha256(f"{weights_hash(state)}\n{text}".encode()).hexdigest()
