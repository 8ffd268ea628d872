"""Rounds, streams, decoding, keys, material: the pieces under the benchmark."""

import itertools
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
import small_tree
import torch
from loader_configs import loader_config
from mini_sets import colour_set
from PIL import Image

from pipeline.builders.names import config_of
from pipeline.contracts import InputError
from pipeline.datasets import DATASETS, FileSet
from pipeline.deployment.inference import count_flops
from pipeline.engine.distributed.parallel import World
from pipeline.measure import candidates, decode, device, loops
from pipeline.measure.keys import BenchmarkConfig, with_defaults
from pipeline.measure.material import part_of
from pipeline.measure.rounds import cpu_seconds, interleaved, summary, with_ratios
from pipeline.measure.stream import border_ratio, of_batches, of_loader, stretch
from pipeline.measure.yardsticks import yardstick
from pipeline.models.build import build as build_network


def test_rounds_are_taken_in_turn() -> None:
    seen: list[str] = []

    def of(name: str, speeds: list[float]):  # type: ignore[no-untyped-def]
        values = iter(speeds)

        def measure() -> dict[str, float | None]:
            seen.append(name)
            return {"images_per_second": next(values), "border_ratio": None}

        return measure

    results = interleaved({"a": of("a", [1.0, 9.0, 2.0]), "b": of("b", [4.0, 4.0, 5.0])}, 3)
    assert "".join(seen) == "abbaab"
    rows = {name: summary(rounds) for name, rounds in results.items()}
    assert rows["a"] == {
        "images_per_second": 2.0,
        "spread": [1.0, 9.0],
        "rounds": [1.0, 9.0, 2.0],
        "border_ratio": None,
    }
    found = with_ratios(rows, rows["b"])["a"]
    assert found["ratio"] == 0.5
    assert found["paired_ratio"] == 0.4  # of 0.25, 2.25, 0.4
    assert found["paired_spread"] == [0.325, 1.325]
    assert "core_ratio" not in found


def _burn(started: object, go_on: object) -> None:
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    started.set()  # type: ignore[attr-defined]
    go_on.wait(60)  # type: ignore[attr-defined]


def test_processor_time_counts_living_children() -> None:
    context = multiprocessing.get_context("fork")
    started, go_on = context.Event(), context.Event()
    before = cpu_seconds()
    child = context.Process(target=_burn, args=(started, go_on))
    child.start()
    assert started.wait(60)
    during = cpu_seconds()
    go_on.set()
    child.join()
    after = cpu_seconds()
    assert before is not None and during is not None and after is not None
    assert during - before > 0.25  # ticks of 0.01
    assert after - before > 0.25


def test_a_round_leaves_out_what_lay_ready() -> None:
    taken = [0]

    def batches():  # type: ignore[no-untyped-def]
        for number in itertools.count():
            taken[0] = number + 1
            yield 4, number % 5 == 0

    stream = batches()
    seen = stretch(stream, steps=10, seconds=60, ahead=3, wait=lambda: None)
    assert taken[0] == 13
    assert seen["images_per_second"] is not None and seen["images_per_second"] > 0
    stretch(stream, steps=10**9, seconds=1e-9, ahead=0, wait=lambda: None)
    assert taken[0] == 16  # three batches, however little time there is


def test_streams_go_over_the_borders_of_epochs() -> None:
    how = loader_config(batch_size=3, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    loader = candidates.LOADERS.get("torch")(colour_set(7), how)
    assert list(itertools.islice(of_loader(loader, 2), 5)) == [(1, True), (3, True), (3, False), (1, False), (3, True)]
    assert list(itertools.islice(of_batches(lambda: [1, 2], int), 5)) == [
        (1, True),
        (2, False),
        (1, True),
        (2, False),
        (1, True),
    ]


def test_border_ratio_sees_a_pause() -> None:
    starts = [i % 16 == 0 for i in range(1, 65)]
    rows = [64] * 64
    assert border_ratio([0.1] * 64, rows, starts) == pytest.approx(1)
    # A border that takes eight batches longer halves a stretch of eight.
    pausing = [0.9 if start else 0.1 for start in starts]
    assert border_ratio(pausing, rows, starts) == pytest.approx(0.5)
    assert border_ratio([0.1] * 9, [64] * 9, [False] * 9) is None


def test_only_jpegs_are_decoded(tmp_path: Path) -> None:
    root = small_tree.write(tmp_path, per_class=3)
    Image.new("RGB", (9, 9)).save(root / "train" / "ant" / "0.png")
    (root / "train" / "bee" / "cut.jpg").write_bytes((root / "train" / "bee" / "0.JPEG").read_bytes()[:200])
    files = decode.sample_jpegs(DATASETS.get("folder")(root=root))
    assert len(files) == 6
    share = decode.decode_for(files, decode.DECODERS["exact"], 0.0)
    assert (share.images, share.bytes) == (1, len(files[0]))
    sizes = [decode.DECODERS[name](files[0]).shape[0] for name in ("exact", "half", "quarter")]
    assert sizes[0] == decode.DECODERS["pillow"](files[0]).shape[0] > sizes[1] > sizes[2]
    assert decode.sample_jpegs(colour_set(3)) == []
    with pytest.raises(InputError, match="decode limit"):
        decode.decode_measures([], ["exact"], [1], 1.0)


def test_a_part_of_a_set_is_spread_over_it(tmp_path: Path) -> None:
    whole = DATASETS.get("folder")(root=small_tree.write(tmp_path, per_class=5))
    part = part_of(whole, 4)
    assert isinstance(part, FileSet)
    assert part.sample_ids() == [whole.sample_ids()[i] for i in (0, 3, 6, 9)]
    assert part.label_N.tolist() == [0, 0, 1, 1]
    assert np.array_equal(part.read(1), whole.read(3))
    assert part_of(whole, 0) is whole and part_of(whole, 10) is whole


def test_large_sets_are_not_made_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    how = loader_config(batch_size=3, image_size=16, mean=(0.5,) * 3, std=(0.5,) * 3)
    resident = candidates.candidates()["resident"]
    assert candidates.obstacle(resident, colour_set(7), how) is None
    monkeypatch.setattr(candidates, "_free_memory", lambda device: 7 * 16 * 16 * 3)
    assert "are free" in str(candidates.obstacle(resident, colour_set(7), how))


def test_what_a_command_line_leaves_out() -> None:
    assert with_defaults(["what=loader"]) == ["dataset=folder", "data.batch_size=64", "what=loader"]
    assert with_defaults(["what=all"])[-4:] == [
        "teacher.model=resnet34",
        "student.model=resnet18",
        "method=kd",
        "what=all",
    ]
    assert "pair=resnet56-resnet20" in with_defaults(["what=step", "dataset=cifar-100"])
    chosen = with_defaults(["what=step", "dataset=cifar100", "model=resnet8"])
    assert chosen == ["teacher.checkpoint=none", "what=step", "dataset=cifar100", "model=resnet8"]
    assert with_defaults(["config=a.yaml"]) == ["config=a.yaml"]


def test_rounds_hold_as_many_images_whatever_the_batch() -> None:
    assert [BenchmarkConfig(dataset="x", data={"batch_size": b}).batches for b in (64, 256, 5000)] == [60, 15, 3]
    assert BenchmarkConfig(dataset="x", steps=7).batches == 7


def test_speed_of_the_device_and_work_of_a_network() -> None:
    cpu = torch.device("cpu")
    assert device.peak_flops(cpu, torch.float32, repeats=1) > 1e8
    network = build_network("resnet8", num_classes=10).eval()
    image_BCHW = torch.zeros(2, 3, 32, 32)
    forward = device.inference_flops(network, image_BCHW)
    assert forward == count_flops(network, 32)
    assert 2.5 * forward < device.training_flops(network, image_BCHW) < 3 * forward
    assert all(p.grad is None for p in network.parameters())


def test_the_yardstick_says_what_it_cannot_read(tmp_path: Path) -> None:
    root = small_tree.write(tmp_path, per_class=2)
    for file in (root / "train" / "bee").iterdir():
        file.write_bytes(file.read_bytes()[:300])
    images = DATASETS.get("folder")(root=root)
    data = {"root": str(root), "workers": 0, "batch_size": 4, "crop": "window"}
    world = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)
    with pytest.raises(InputError, match=r"(?i)torchvision's ImageFolder cannot read the set: .*truncated"):
        yardstick(BenchmarkConfig(dataset="folder", data=data), images, world)


def test_a_row_says_where_its_steps_run_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = ["teacher.model=resnet8", "teacher.checkpoint=none", "student.model=resnet8", "method=heda"]
    words = ["dataset=synthetic", *pair, "runtime.device=cpu", "runtime.compile=graph"]
    config = config_of(BenchmarkConfig, words)
    world = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)
    loops.trainer_of(config, world, loops.built(config, world), tmp_path / "run")
    out, err = capsys.readouterr()
    assert err == "runtime.compile=graph: method heda reads values on the host; steps run plainly\n" and out == ""
