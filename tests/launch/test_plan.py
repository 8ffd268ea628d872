"""The model of N nodes against arithmetic by hand."""

from typing import Any

import pytest
from cli import call

from launch import scaling
from launch.scaling import PlanConfig, all_reduce, counts, expect, ring_bytes

# One GPU a node, 100 MB of gradients, 1 GB/s of network: a ring of two carries the gradient once, in 0.1 s.
PLAIN: dict[str, Any] = {
    **{"gpus_per_node": 1, "parameters": 25e6, "gradient_bytes": 4, "step_ms": 100, "images_per_gpu": 50},
    **{"backward_share": 0.5, "overlap": 0.8, "bandwidth_gbit": 8, "latency_us": 1000, "loader_per_node": 1e9},
    **{"image_bytes": 0, "cache_bytes": 0, "storage_gbyte": 1, "checkpoint_mb": 0, "epoch_images": 1000},
}


def config(**other: Any) -> PlanConfig:
    return PlanConfig(**(PLAIN | other))


def test_a_ring_moves_twice_the_gradient_less_one_share() -> None:
    assert [ring_bytes(100.0, ranks) for ranks in (1, 2, 4, 10)] == pytest.approx([0, 100, 150, 180])


def test_all_reduce_adds_the_two_rings_and_the_latency() -> None:
    assert all_reduce(config(), 1) == 0
    assert all_reduce(config(), 2) == pytest.approx(0.1 + 2 * 0.001)
    assert all_reduce(config(), 4) == pytest.approx(0.15 + 6 * 0.001)
    # 4 GPUs in a node of 10 GB/s: 2 x 3/4 x 0.1 GB = 15 ms more.
    assert all_reduce(config(gpus_per_node=4, local_gbyte=10), 2) == pytest.approx(0.015 + 0.1 + 0.002)


def test_what_the_backward_pass_hides_is_not_paid() -> None:
    two = expect(config(), 2)  # hides 0.8 x 0.5 x 100 ms = 40 ms of 102
    assert two.exposed == pytest.approx(0.062)
    assert two.step == pytest.approx(0.162)
    assert two.limit == "network"
    assert two.images_per_second == pytest.approx(100 / 0.162)
    assert two.efficiency == pytest.approx(0.1 / 0.162)
    assert two.network_bytes == pytest.approx(100e6)
    fast = expect(config(bandwidth_gbit=80, latency_us=0), 2)
    assert (fast.exposed, fast.efficiency, fast.limit) == (0, pytest.approx(1), "GPU")


def test_loader_and_file_system_hold_a_run_back() -> None:
    slow = expect(config(loader_per_node=250), 1)  # 50 images in 0.2 s
    assert (slow.step, slow.limit, slow.efficiency) == (pytest.approx(0.2), "loader", pytest.approx(0.5))
    assert slow.loader_needed == pytest.approx(500)
    # 4 nodes x 50 images x (1.5 + 0.5) MB = 400 MB a step, from 1 GB/s
    shared = expect(config(bandwidth_gbit=800, latency_us=0, image_bytes=1.5e6, cache_bytes=0.5e6), 4)
    assert (shared.step, shared.limit) == (pytest.approx(0.4), "file system")
    assert shared.read == pytest.approx(1e9)


def test_checkpoints_end_epochs() -> None:
    one = expect(config(checkpoint_mb=500, write_mb=250), 1)  # 20 steps of 0.1 s, then 2 s
    assert one.checkpoint == pytest.approx(2)
    assert one.checkpoint_share == pytest.approx(0.5)
    assert one.images_per_second == pytest.approx(1000 / 4)


def test_efficiency_never_grows_with_nodes() -> None:
    found = [expect(PlanConfig(), nodes).efficiency for nodes in range(1, 17)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] <= found[0] <= 1


def test_numbers_of_nodes_double() -> None:
    assert counts(1) == [1]
    assert counts(16) == [1, 2, 4, 8, 16]
    assert counts(12) == [1, 2, 4, 8, 12]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(scaling, ["nodes=4", "image_bytes=0"], capsys)
    assert code == 0
    assert "98." in out and "efficiency" in out and "all-reduce" in out
    code, out, err = call(scaling, ["nodes=0"], capsys)
    assert (code, out) == (2, "") and err.count("\n") == 1
    code, _, err = call(scaling, ["bandwith_gbit=3"], capsys)
    assert code == 2 and "bandwidth_gbit" in err
