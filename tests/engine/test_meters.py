"""Meters, clock, latch: sums against obvious loops."""

import pytest
import torch

from pipeline.contracts import Batch, InputError
from pipeline.engine.distributed.parallel import World
from pipeline.engine.forward import StepOutput
from pipeline.engine.metrics import Clock, Meters
from pipeline.engine.nonfinite import Latch, NonFiniteLoss

CPU = torch.device("cpu")
ALONE = World(rank=0, ranks=1, device=CPU, side=None)


def batch_of(rows: int, first: int = 0) -> Batch:
    index = torch.arange(first, first + rows)
    return Batch(image_BCHW=torch.zeros(rows, 3, 2, 2), label_B=index % 5, index_B=index)


def output_of(rows: int, seed: int) -> StepOutput:
    generator = torch.Generator().manual_seed(seed)
    ce, kd = torch.rand(2, generator=generator)
    return StepOutput(ce + kd, {"ce": ce, "kd": kd}, torch.randn(rows, 5, generator=generator))


def test_meters_weight_by_rows() -> None:
    meters = Meters(CPU)
    rows = [4, 4, 3]
    outputs = [output_of(r, i) for i, r in enumerate(rows)]
    for r, out in zip(rows, outputs, strict=True):
        meters.add(out, batch_of(r))
    read = meters.read(ALONE)
    assert read["train_loss"] == pytest.approx(sum(float(o.loss) * r for o, r in zip(outputs, rows, strict=True)) / 11)
    assert read["terms"]["kd"] == pytest.approx(
        sum(float(o.terms["kd"]) * r for o, r in zip(outputs, rows, strict=True)) / 11
    )
    hits = sum(int((o.logits_BK.argmax(1) == batch_of(r).label_B).sum()) for o, r in zip(outputs, rows, strict=True))
    assert read["train_top1"] == pytest.approx(100 * hits / 11)
    again = Meters(CPU)
    state = meters.state_dict()
    again.load_state_dict(state["names"], state["total"])
    assert again.read(ALONE) == read
    meters.reset()
    assert meters.read(ALONE)["terms"] == {}


def test_clock_leaves_out_the_first_five_steps_and_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    clock.start_epoch()
    for _ in range(5):
        now[0] += 100
        clock.step_done(64)
    for _ in range(4):
        now[0] += 1
        clock.data_arrived()
        now[0] += 3
        clock.step_done(64)
    now[0] += 1000  # evaluation, checkpoint
    clock.resume()
    now[0] += 4
    clock.step_done(64)
    assert clock.images_per_second == pytest.approx(5 * 64 / 20)
    assert clock.epoch_figures() == {"images_per_second": pytest.approx(16), "data_wait": pytest.approx(4 / 20)}


def test_latch_keeps_the_first_bad_step() -> None:
    latch = Latch(CPU, 8)
    for step in range(6):
        bad = torch.tensor(step in (3, 4))
        latch.observe(bad, output_of(4, step), batch_of(4, 10 * step), torch.tensor(step))
    with pytest.raises(NonFiniteLoss) as caught:
        latch.check(ALONE)
    text = str(caught.value)
    assert text.startswith("step 4:") and "30, 31, 32, 33;" in text
    assert f"ce={float(output_of(4, 3).terms['ce']):g}" in text


def test_latch_is_silent_while_all_is_well() -> None:
    latch = Latch(CPU, 8)
    latch.observe(torch.tensor(False), output_of(4, 0), batch_of(4), torch.tensor(0))
    latch.check(ALONE)


def test_terms_of_an_epoch_have_the_same_names() -> None:
    """Else the sums would begin anew, and the epoch's record would tell of its last steps alone."""
    meters, first = Meters(CPU), output_of(4, 0)
    fewer = first._replace(terms={"ce": first.terms["ce"]})
    meters.add(first, batch_of(4))
    with pytest.raises(InputError, match="the terms ce, kd, then ce: name the same ones"):
        meters.add(fewer, batch_of(4))
    with pytest.raises(InputError, match="the terms ce, kd, then ce: name the same ones"):
        StepOutput.merged([first, fewer])
    meters.reset()
    meters.add(fewer, batch_of(4))  # another epoch may have others
    assert meters.read(ALONE)["terms"].keys() == {"ce"}
    resumed = Meters(CPU)
    state = meters.state_dict()
    resumed.load_state_dict(state["names"], state["total"])
    with pytest.raises(InputError, match="then ce, kd"):
        resumed.add(first, batch_of(4))
