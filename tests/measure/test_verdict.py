"""Every branch of the sentence that names the bottleneck."""

import pytest

from pipeline.measure.verdict import Figures, bottleneck

WORDS = {"torch": "data.loader=torch", "ffcv": "data.loader=ffcv"}
SLOW = {"torch": 520.0, "ffcv": 1290.0}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"loaders": SLOW, "step": 1900.0}, "data.loader=ffcv would give 1,290 images/s, still less"),
        ({"loaders": SLOW, "step": 1200.0}, "data.loader=ffcv would give 1,290 images/s, as much as the step takes"),
        ({"loaders": SLOW, "step": 1900.0}, "(torch, 520 images/s) feeds less than the step could take (1,900"),
        ({"loaders": {"torch": 520.0}, "step": 1900.0, "limit": 540.0, "workers": 2}, "at the decode limit of 2"),
        ({"loaders": {"torch": 520.0}, "step": 1900.0, "limit": 900.0}, "decoding alone would allow 900"),
        ({"loaders": {"torch": 520.0}, "step": 1900.0}, "no loader measured here is faster; more cores"),
        ({"loaders": SLOW, "step": 100.0, "teacher": 250.0}, "the teacher's forward is 40 % of it"),
        ({"loaders": SLOW, "step": 100.0, "teacher": 900.0, "tunable": True}, "runtime.amp=bf16"),
        ({"loaders": SLOW, "step": 100.0}, "a smaller network, a larger batch or a faster device"),
        ({"loaders": SLOW, "step": 540.0}, "are balanced"),
        ({"loaders": SLOW}, "more than 520 images/s waits for the loader (torch): data.loader=ffcv"),
        ({"loaders": {"ffcv": 1290.0}}, "waits for the loader (ffcv)"),
        (
            {"step": 100.0, "teacher": 200.0},
            "takes 100 images/s from a loader that keeps up: the teacher's forward is 50",
        ),
        ({"step": 100.0, "training": 40.0, "data_wait": 0.6}, "waits for data 60 % of the time, so the loader"),
        ({"step": 100.0, "training": 98.0, "data_wait": 0.01}, "waits for data 1 % of the time: a smaller network"),
        ({"limit": 550.0, "workers": 2}, "550 images/s is what 2 processes decode"),
        ({"step": 1.84}, "takes 1.8 images/s"),
        ({}, "Nothing was measured"),
    ],
)
def test_sentence(figures: dict[str, object], said: str) -> None:
    text = bottleneck(Figures(used="torch", words=WORDS, shared=False, **figures))  # type: ignore[arg-type]
    assert said in text
    assert text.endswith(".") and "\n" not in text


def test_shared_cores_add_up() -> None:
    figures = {"loaders": {"torch": 300.0}, "used": "torch", "step": 150.0}
    assert "about 100 images/s" in bottleneck(Figures(**figures))  # type: ignore[arg-type]
    assert "same cores" not in bottleneck(Figures(**figures, shared=False))  # type: ignore[arg-type]
