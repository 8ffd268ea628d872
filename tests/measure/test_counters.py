"""Operations, bytes and host reads of a step; and that a step reads nothing on the host."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.builders.names import config_of
from pipeline.engine.distributed.parallel import World
from pipeline.measure import limits
from pipeline.measure.counters import Watch, counted
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.limits import copy_bandwidth, covered, idle_share, launch_share, operation_seconds
from pipeline.measure.loops import advance, built, trainer_of

CPU = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)


def test_bytes_of_operations_by_hand() -> None:
    a, b = torch.ones(10, 100), torch.ones(10, 100)
    with Watch() as watch:
        _ = a + b
    assert (watch.operations, watch.bytes) == (1, 3 * 4000)
    with Watch() as watch:
        a.t().view(-1, 4) if a.t().is_contiguous() else a.t()
        torch.empty(1000)
    assert (watch.operations, watch.bytes) == (0, 0)  # views and allocations move nothing
    with Watch() as watch:
        _ = b.sum()
        torch._foreach_add_([a, b], 1.0)
    assert watch.bytes == 4000 + 4 + 2 * 8000
    with Watch() as watch:
        _ = torch.ones(1).expand(1000) + 1
    assert watch.bytes == 4 + (4 + 4000)  # behind an expanded tensor there is one number


def test_backward_and_fused_updates_are_counted() -> None:
    layer = nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, fused=True)
    x = torch.ones(2, 8)

    def step(number: int) -> None:
        layer(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    count = counted(step, steps=3)
    with Watch() as forward:
        layer(x).sum()
    assert count.operations > forward.operations + 1
    assert count.bytes > forward.bytes + 3 * 8 * 4 * 4  # gradient written; weights and gradient read
    assert count.reads == 0


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t.item(),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: t.numpy(),
        lambda t: np.asarray(t),
        lambda t: bool(t),
        lambda t: float(t),
        lambda t: int(t),
        lambda t: torch.nonzero(t),
        lambda t: torch.equal(t, t),
        lambda t: [1, 2][t.long()],
    ],
)
def test_every_way_to_read_a_value_is_seen_once(read: Any) -> None:
    value = torch.ones(())
    with Watch() as watch:
        read(value)
    assert watch.count.reads == 1
    with Watch() as watch:
        _ = torch.where(value > 0, value, 0 * value).sum()
    assert watch.count.reads == 0


@pytest.mark.parametrize("method", ["kd", "dkd", "crd", "simkd"])
def test_steps_read_nothing_on_the_host_between_log_lines(tmp_path: Path, method: str) -> None:
    words = [
        *("dataset=synthetic", "teacher.model=resnet8", "student.model=resnet8", "teacher.checkpoint=none"),
        *(f"method={method}", "data.batch_size=8", "run.log_every=22"),
    ]
    config = config_of(BenchmarkConfig, words)
    trainer = trainer_of(config, CPU, built(config, CPU), tmp_path / "run")
    advance(trainer, 1)
    with Watch() as watch:
        advance(trainer, 20)
    assert trainer.done == 21 and watch.operations > 20 * 50
    assert watch.reads == {}
    with Watch() as watch:
        advance(trainer, 1)  # the log line
    assert watch.count.reads > 0


def test_spans_that_overlap_count_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4


def test_idle_time_is_what_kernels_do_not_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(work: Any) -> float:  # of one round, on a device that is not here
        work()
        return 0.030

    monkeypatch.setattr(limits, "busy_seconds", busy)
    assert idle_share({"ms_per_step": 10.0}, lambda: {"steps": 4}) == pytest.approx(0.25)
    assert idle_share({"ms_per_step": 5.0}, lambda: {"steps": 4}) == 0


def test_the_profiler_gives_what_busy_time_reads() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(3).add(1)
    seen = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CPU and not e.is_user_annotation]
    assert covered((e.time_range.start, e.time_range.end) for e in seen) > 0


def test_ceilings_of_this_machine() -> None:
    cpu = torch.device("cpu")
    assert 1e8 < copy_bandwidth(cpu, repeats=1) < 1e13
    each = operation_seconds(cpu, repeats=1)
    assert 1e-8 < each < 1e-3
    assert launch_share({"operations": 100, "ms_per_step": 10.0}, 1e-5) == pytest.approx(0.1)
    assert launch_share({"ms_per_step": 10.0}, 1e-5) is None
