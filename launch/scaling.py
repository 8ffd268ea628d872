"""What to expect of N nodes before they are asked for: a small model of one training step, from measured inputs.

python launch/scaling.py nodes=16 gpus_per_node=8 parameters=21.8e6 step_ms=95 images_per_gpu=256 bandwidth_gbit=100
    a table for 1, 2, 4, ... nodes: step time, efficiency, what loaders, file system and network must deliver
python launch/scaling.py from=step.json,loader.json nodes=16 gpus_per_node=8
    step_ms, images_per_gpu, parameters, backward_share, loader_per_node and image_bytes as measured by
    pipeline/benchmark.py (json=F); keys on the command line win

The inputs come from pipeline/benchmark.py on one node; docs/scaling.md has the formulas and what they leave out.
"""

import sys
from dataclasses import dataclass, fields
from pathlib import Path

if __name__ == "__main__":  # run by path, uninstalled, or from a code snapshot
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import pipeline  # noqa: F401  first: it says which packages are missing

from rich.console import Console
from rich.table import Table

from launch.tables.benchmark_files import with_measured
from pipeline import cli
from pipeline.config import compose, describe
from pipeline.config.base import Section, key

MEGA, GIGA, BITS = 1e6, 1e9, 8


class PlanConfig(Section):
    """What the model is told; defaults are those of ResNet-34 -> ResNet-18 on ImageNet, to be measured by yourself."""

    nodes: int = key(16, "largest number of nodes; the table doubles up to it", affects="numbers", ge=1, le=4096)
    gpus_per_node: int = key(8, "GPUs of a node", affects="numbers", ge=1)
    parameters: float = key(11.7e6, "trainable numbers of student and method", affects="numbers", gt=0)
    gradient_bytes: float = key(4.0, "bytes per gradient on the network (4 = float32)", affects="numbers", gt=0)
    step_ms: float = key(
        95.0, "milliseconds of a step on one GPU, data ready (benchmark what=step)", affects="numbers", gt=0
    )
    images_per_gpu: int = key(256, "images of a step on one GPU", affects="numbers", ge=1)
    backward_share: float = key(
        0.5, "share of the step that is the student's backward pass", affects="numbers", ge=0, le=1
    )
    overlap: float = key(
        0.8, "share of the backward pass that the network can be busy in (DDP's buckets)", affects="numbers", ge=0, le=1
    )
    local_gbyte: float = key(200.0, "GB/s that a GPU sends to another of its node", affects="numbers", gt=0)
    bandwidth_gbit: float = key(100.0, "Gbit/s of a node's network", affects="numbers", gt=0)
    latency_us: float = key(10.0, "microseconds of one message between nodes", affects="numbers", ge=0)
    loader_per_node: float = key(
        25_000.0, "images/s that the loader of a node makes (benchmark what=loader)", affects="numbers", gt=0
    )
    image_bytes: float = key(
        110e3, "bytes per image that the loader reads from the file system; 0 = held in memory", affects="numbers", ge=0
    )
    cache_bytes: float = key(
        0.0, "bytes per image of the teacher cache (fp16, 1,000 classes: 2,000); 0 = live", affects="numbers", ge=0
    )
    storage_gbyte: float = key(
        10.0, "GB/s that the shared file system delivers to all nodes together", affects="numbers", gt=0
    )
    checkpoint_mb: float = key(140.0, "MB of a checkpoint (weights, optimiser, method)", affects="numbers", ge=0)
    write_mb: float = key(500.0, "MB/s with which one node writes it", affects="numbers", gt=0)
    epoch_images: int = key(1_281_167, "training images of an epoch; a checkpoint ends each", affects="numbers", ge=1)


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """Of one number of nodes. Times in seconds; rates a second; efficiency against as many single GPUs, 0..1.

    network: all-reduce of the gradients; exposed: what of it the backward pass does not hide; network_bytes: that leave
    and enter a node in a step; limit: what holds the run back; read: bytes/s of all nodes from the file system.
    """

    nodes: int
    step: float
    network: float
    exposed: float
    network_bytes: float
    images_per_second: float
    efficiency: float
    loader_needed: float
    read: float
    checkpoint: float
    checkpoint_share: float
    limit: str


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that each of `ranks` sends (and receives) in a ring all-reduce of `size` bytes: 2 (n - 1) / n x size."""
    return 2 * (ranks - 1) / ranks * size


def all_reduce(config: PlanConfig, nodes: int) -> float:
    """Seconds of one all-reduce, in two rings: the GPUs of a node, then one rank of each node, whose network carries
    the whole gradient once; 2 (n - 1) messages in turn pay the latency."""
    size = config.parameters * config.gradient_bytes
    local = ring_bytes(size, config.gpus_per_node) / (config.local_gbyte * GIGA)
    wire = ring_bytes(size, nodes) / (config.bandwidth_gbit * GIGA / BITS)
    return local + wire + 2 * (nodes - 1) * config.latency_us / MEGA


def expect(config: PlanConfig, nodes: int) -> Expectation:
    """The model: max(compute + exposed network, loader, file system), checkpoints on top."""
    gpus = nodes * config.gpus_per_node
    images = gpus * config.images_per_gpu
    compute = config.step_ms / 1e3
    network = all_reduce(config, nodes)
    exposed = max(0.0, network - config.overlap * config.backward_share * compute)
    read_bytes = config.image_bytes + config.cache_bytes
    times = {
        "network" if exposed else "GPU": compute + exposed,
        "loader": config.gpus_per_node * config.images_per_gpu / config.loader_per_node,
        "file system": images * read_bytes / (config.storage_gbyte * GIGA),
    }
    limit = max(times, key=lambda name: times[name])
    step = times[limit]
    checkpoint = config.checkpoint_mb / config.write_mb
    epoch = config.epoch_images / images * step
    speed = config.epoch_images / (epoch + checkpoint)
    return Expectation(
        nodes=nodes,
        step=step,
        network=network,
        exposed=exposed,
        network_bytes=ring_bytes(config.parameters * config.gradient_bytes, nodes),
        images_per_second=speed,
        efficiency=speed / (images / compute),
        loader_needed=config.gpus_per_node * config.images_per_gpu / (compute + exposed),
        read=images / step * read_bytes,
        checkpoint=checkpoint,
        checkpoint_share=checkpoint / (epoch + checkpoint),
        limit=limit,
    )


def counts(largest: int) -> list[int]:
    """1, 2, 4, ... and `largest`."""
    doubled = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*doubled, largest]


def table(config: PlanConfig) -> Table:
    """One column a quantity, one row a number of nodes."""
    shown = Table(title="Expected, not measured", caption="efficiency: against as many single GPUs with data ready")
    for name in ("nodes", "GPUs", "batch", "images/s", "efficiency", "held back by", "step ms", "all-reduce ms"):
        shown.add_column(name, justify="left" if name == "held back by" else "right")
    for name in ("exposed ms", "MB/step/node", "loader wants/node", "reads GB/s", "checkpoint s"):
        shown.add_column(name, justify="right")
    for nodes in counts(config.nodes):
        one, gpus = expect(config, nodes), nodes * config.gpus_per_node
        shown.add_row(
            *(str(nodes), f"{gpus:,}", f"{gpus * config.images_per_gpu:,}", f"{one.images_per_second:,.0f}"),
            *(f"{100 * one.efficiency:.1f} %", one.limit, f"{1e3 * one.step:.1f}", f"{1e3 * one.network:.2f}"),
            *(f"{1e3 * one.exposed:.2f}", f"{one.network_bytes / MEGA:.1f}", f"{one.loader_needed:,.0f}"),
            *(f"{one.read / GIGA:.2f}", f"{one.checkpoint:.2f} ({100 * one.checkpoint_share:.1f} %)"),
        )
    return shown


def main(argv: list[str]) -> None:
    """The command line."""
    words, measured = with_measured(argv)
    config = compose(PlanConfig, words)
    console = Console(highlight=False)
    console.width = max(console.width, 160)
    if measured:
        console.print("measured:", ", ".join(f"{name}={value:g}" for name, value in measured.items()), markup=False)
    console.print(table(config))


def help_text() -> str:
    """What --help prints."""
    told = ", ".join(field.name for field in fields(Expectation))
    return describe(__doc__ or "", PlanConfig, f"\nThe model gives: {told}")


if __name__ == "__main__":
    cli.run(main, help_text, {})
