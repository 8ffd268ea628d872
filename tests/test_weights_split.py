"""A network's body and head under two prefixes."""

from pathlib import Path

import pytest
from test_weights_containers import A, B, Net, State, refusal, same, saved

from pipeline.weights import load_weights


def halves(body: str, head: str, tail: State | None = None) -> State:
    """A under two prefixes, the classifier (of `tail`) under the second."""
    tail = tail or A
    return {
        (f"{head}{k}" if k.startswith("fc.") else f"{body}{k}"): tail[k] if k.startswith("fc.") else A[k] for k in A
    }


@pytest.mark.parametrize("prefixes", [("backbone.", "head."), ("module.backbone.", "module.head."), ("encoder.", "")])
def test_a_body_and_a_head_under_two_prefixes(prefixes: tuple[str, str], tmp_path: Path) -> None:
    """OpenMMLab's layout."""
    file = saved({"meta": {"epoch": 1}, "state_dict": halves(*prefixes)}, tmp_path)
    assert same(load_weights(file, expected=Net()), A)


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("", "ema."), ("online.", "ema_model.")])
def test_halves_of_two_networks_are_none(prefixes: tuple[str, str], tmp_path: Path) -> None:
    assert "another architecture" in refusal({"state_dict": halves(*prefixes, B)}, tmp_path)
