"""tools/gpu on a CPU: every stage runs, tiny, so that the tool is not stale when a GPU is at hand."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from fake_cuda import FakeCuda
from torch.autograd import DeviceType

from tools.gpu import probe
from tools.gpu.probes import STAGES, ddp, micro, speed
from tools.gpu.probes.bench import Bench


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs(stage: str, tmp_path: Path) -> None:
    bench = probe.run(stage, "cpu", tmp_path / "out", tmp_path / "scratch")
    lines = (tmp_path / "out" / "lines").read_text().splitlines()
    assert bench.failed == [] and lines, lines
    assert all(line.count("|") == 3 and line.startswith(stage) for line in lines)


def test_what_only_a_gpu_runs_with_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ones, rand = torch.ones, torch.rand
    fake = FakeCuda(monkeypatch)
    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch, "rand", rand)
    bench = Bench("ddp", torch.device("cpu"), tmp_path, tmp_path)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        ddp.bare(bench, default_stream=False)
        ddp.default_stream_too(bench)
    finally:
        dist.destroy_process_group()
    assert "captured and replayed" in (tmp_path / "lines").read_text() and fake.present == fake.default

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            """Now."""

        def elapsed_time(self, end: "Event") -> float:
            return 8.0  # ms

    calls = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: fake.graph(graph, None, stream, "global"))
    assert micro.replayed(lambda x: calls.append(x), torch.zeros(()), times=4) == 2000 and len(calls) == 4


def test_launches_are_not_counted_as_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows(list[SimpleNamespace]):
        def table(self, **how: object) -> str:
            return str(how)

    def rows() -> Rows:
        of_host = SimpleNamespace(count=25, device_type=DeviceType.CPU, self_device_time_total=0)
        return Rows([of_host, SimpleNamespace(count=40, device_type=DeviceType.CUDA, self_device_time_total=100.0)])

    profile = SimpleNamespace(key_averages=rows)
    monkeypatch.setattr(torch.profiler, "profile", lambda **how: contextlib.nullcontext(profile))
    monkeypatch.setattr(speed, "advance", lambda trainer, steps: None)
    speed.kernels(Bench("speed", torch.device("cuda"), tmp_path, tmp_path), "live, graph", None, 9.0)
    assert "| 2 a step, busy 5 us of 9 |" in (tmp_path / "lines").read_text()


def test_a_failure_is_a_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench("parity", torch.device("cpu"), tmp_path, tmp_path)
    with bench.tried("a thing"):
        raise RuntimeError("what went wrong\nand more")
    bench.judge("another", "1", False, "allowed 0")
    assert bench.failed == ["a thing", "another"]
    first, second = (line.split(" | ") for line in capsys.readouterr().out.splitlines())
    assert first[2:] == ["RuntimeError: what went wrong", "FAILED"] and second[3] == "FAILED, allowed 0"
    assert "Traceback" in (tmp_path / "parity.err").read_text()
    with pytest.raises(KeyboardInterrupt), bench.tried("a signal"):
        raise KeyboardInterrupt
