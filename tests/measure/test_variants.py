"""What each part of a step costs, from differences; and the parts that stand in for others."""

import pytest
import torch

from pipeline.contracts import Batch, ModelOutput, Signal
from pipeline.measure.variants import PlainSum, Remembered, backward_share, parts_of_step

MS = {
    **{"with the loader": 110, "training loop": 100, "no teacher": 60, "no loss": 55},
    **{"student forward": 15, "update": 4, "meters and latch": 1},
}


def rows(ms: dict[str, float]) -> dict[str, dict[str, object]]:
    """Three rounds of 64 images, the machine twice as slow in the last."""
    return {
        name: {
            "rounds": [64_000 / (each * slow) for slow in (1, 1, 2)],
            "images_per_second": 64_000 / each,
            "per_core": 32_000 / each,
        }
        for name, each in ms.items()
    }


def test_parts_add_up_to_the_whole() -> None:
    parts = parts_of_step(rows(MS), 64)
    ms = {name: part["ms"] for name, part in parts.items()}
    assert ms == pytest.approx(
        {
            **{"images: order, crop, flip": 10, "teacher": 40, "method's loss": 5, "student forward": 15},
            **{"student backward": 35, "update": 4, "meters and latch": 1},
        }
    )
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=1e-3)
    assert parts["student backward"]["core_ms"] == pytest.approx(70)
    assert backward_share(rows(MS)) == pytest.approx(0.35)


def test_without_a_teacher_its_part_is_nothing() -> None:
    ms = {name: each for name, each in MS.items() if name != "no teacher"}
    untold = {name: {k: v for k, v in row.items() if k != "per_core"} for name, row in rows(ms).items()}
    assert parts_of_step(untold, 64)["teacher"] == {"ms": 0, "share": 0, "core_ms": None}


def test_a_remembered_teacher_is_asked_once_a_shape() -> None:
    class Source:
        provides, views, recorded, network = Signal.LOGITS, None, False, None

        def __init__(self) -> None:
            self.asked = 0

        def modules(self) -> tuple[()]:
            return ()

        def __call__(self, batch: Batch) -> ModelOutput:
            self.asked += 1
            return ModelOutput(batch.image_BCHW.mean((1, 2, 3))[:, None], torch.ones(len(batch.label_B), 1))

    def batch(size: int) -> Batch:
        zeros = torch.zeros(2, dtype=torch.int64)
        return Batch(image_BCHW=torch.full((2, 3, size, size), float(size)), label_B=zeros, index_B=zeros)

    source = Source()
    remembered = Remembered(source)
    found = [remembered(batch(size)) for size in (4, 4, 8, 4)]
    assert source.asked == 2 and remembered.provides == Signal.LOGITS
    assert [output.logits_BK[0, 0].item() for output in found if output is not None] == [4, 4, 8, 4]
    terms = PlainSum(None)(ModelOutput(torch.ones(2, 5), torch.ones(2, 3)), None, batch(4), torch.zeros(()))
    assert {name: term.item() for name, term in terms.items()} == {"ce": 1}
