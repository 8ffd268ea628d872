"""The step on a GPU: nothing waits for the device, our loop keeps up with the bare one; figures are printed (-s).

The first test is of correctness; the others measure (slow): python -m pytest tests/gpu/test_step_gpu.py -m gpu -s
"""

import json
from pathlib import Path
from typing import Any

import cli
import pytest
import torch

from data_prep import cache_teacher
from pipeline import benchmark
from pipeline.builders.names import config_of
from pipeline.config import RuntimeConfig
from pipeline.engine.distributed import parallel
from pipeline.measure.counters import cuda_waits
from pipeline.measure.device import peak_flops
from pipeline.measure.keys import BenchmarkConfig
from pipeline.measure.limits import busy_seconds, copy_bandwidth
from pipeline.measure.loops import advance, built, full_batches, ready_trainer

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
PROTOCOL_STEPS = 187_680  # 240 epochs of CIFAR-100 at batch 64
PAIR = ("dataset=synthetic", "teacher.model=resnet32x4", "student.model=resnet8x4", "teacher.checkpoint=none")
ENOUGH = 0.97  # of the bare loop
# Shapes of ImageNet; the benchmark makes the JPEGs.
LARGE = {
    "distillation": ("method=kd", "teacher.model=resnet34", "model=resnet18"),
    "training": ("method=vanilla", "model=resnet50"),
}


def measured(words: list[str], file: Path, capture: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The benchmark's JSON; its tables and the machine are shown."""
    code, out, err = cli.call(benchmark, [*words, "runtime.device=cuda", f"json={file}"], capture)
    assert code == 0, err
    report = json.loads(file.read_text())
    with capture.disabled():
        print(f"\n{report['machine']['gpus']}, torch {report['versions']['torch']}: {' '.join(words)}\n{out}")
    return report


def projected(row: dict[str, Any]) -> str:
    """The whole protocol at this speed."""
    return (
        f"{1000 / row['ms_per_step']:,.0f} steps/s, 240 epochs in {PROTOCOL_STEPS * row['ms_per_step'] / 6e4:.1f} min"
    )


@pytest.mark.parametrize("mode", ["off", "graph"])
@pytest.mark.parametrize("method", ["kd", "dkd", "crd", "simkd"])
def test_no_step_waits_for_the_device(tmp_path: Path, method: str, mode: str) -> None:
    words = [*PAIR, f"method={method}", f"runtime.compile={mode}", "run.log_every=1000", "runtime.device=cuda"]
    config = config_of(BenchmarkConfig, words)
    with parallel.start(RuntimeConfig(device="cuda")) as world:
        parts = built(config, world)
        batches = full_batches(parts.train)
        trainer = ready_trainer(config, world, parts, batches, tmp_path / "run")
        advance(trainer, 10)
        assert cuda_waits(lambda: advance(trainer, 20)) == []
        assert cuda_waits(lambda: batches[0].label_B.sum().item()) != []


@pytest.mark.slow
@pytest.mark.parametrize("source", ["live", "cached"])
def test_small_images_in_every_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    words = ["what=step", *PAIR, "method=kd", "compiles=off,default,graph", "rounds=5", "seconds=5"]
    if source == "cached":
        cache = tmp_path / "cache"
        given = [*PAIR, "method=kd", f"cache.out={cache}", "cache.views=1", "runtime.device=cuda"]
        code, _, err = cli.call(cache_teacher, given, capsys)
        assert code == 0, err
        words += ["teacher.source=cached", f"teacher.cache={cache}"]
    report = measured(words, tmp_path / "a.json", capsys)
    step = report["step"]
    rows = {mode: step[f"training loop, compile={mode}"] for mode in ("off", "default", "graph")}
    with capsys.disabled():
        for mode, row in rows.items():
            print(f"{source}, {mode}: {projected(row)}")
    assert step["training loop"]["host_reads"] == 0
    assert all(0 <= row["launch_share"] < 1 for row in step.values())
    assert rows["graph"]["launch_share"] < rows["off"]["launch_share"]
    assert rows["graph"]["images_per_second"] > rows["off"]["images_per_second"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["off", "default"])
@pytest.mark.parametrize("kind", LARGE)
def test_large_images_keep_up_with_the_bare_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, mode: str
) -> None:
    sizes = ["data.batch_size=256", "data.workers=8", "runtime.amp=bf16", f"runtime.compile={mode}"]
    words = ["what=step", *LARGE[kind], *sizes, "variants=false", "rounds=9", "steps=12"]
    row = measured(words, tmp_path / "a.json", capsys)["step"]["training loop"]
    with capsys.disabled():
        print(f"{kind}, {mode}: {row['images_per_second']:,.0f} images/s, MFU {row['mfu']:.3f}")
    assert 0 < row["mfu"] < 1 and row["copy_share"] > 0
    assert row["paired_ratio"] >= ENOUGH


@pytest.mark.slow
def test_ceilings_and_busy_time() -> None:
    assert copy_bandwidth(CUDA) > 5e10
    side = 4096
    a = torch.randn(side, side, device=CUDA, dtype=torch.bfloat16)
    alone = 2 * side**3 / peak_flops(CUDA, torch.bfloat16)
    torch.mm(a, a)
    busy = busy_seconds(lambda: [torch.mm(a, a) for _ in range(20)])
    assert 0.3 * 20 * alone < busy < 10 * 20 * alone
