"""Everything about devices, process groups, AMP, memory layout, torch.compile and DDP."""

import contextlib
import datetime
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import RuntimeConfig
from pipeline.contracts import InputError, NotWritten
from pipeline.engine.distributed import tf32
from pipeline.engine.distributed.sync_bn import with_global_statistics
from pipeline.engine.graph.backends import CudaRecorder, FusedCapture, Recorder, Tracer
from pipeline.process import meeting, peers

T = TypeVar("T")
M = TypeVar("M", bound=nn.Module)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# cudagraphs under DDP: pytorch 140395. In mode "graph" it is the whole step that is recorded, not modules.
COMPILE_MODES = {"default": "default", "max": "max-autotune-no-cudagraphs"}

SHAPES = 64  # of batches in one run, at most


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among the ranks.

    side: gloo group for small host-side messages; rows: group in which methods gather batches, apart from DDP's, whose
    buckets travel at the same time. Both None on one rank. tf32: what is in force, see engine/distributed/tf32.py.
    """

    rank: int
    ranks: int
    device: torch.device
    side: dist.ProcessGroup | None
    rows: dist.ProcessGroup | None = None
    tf32: str = tf32.OFF

    @property
    def leader(self) -> bool:
        """True on the one rank that writes files and prints."""
        return self.rank == 0

    @property
    def behind(self) -> bool:
        """Whether the device may still be at work when a call has returned."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Returns when the device has done what it was given."""
        if self.behind:
            torch.cuda.synchronize(self.device)

    def sum(self, value: Tensor) -> Tensor:
        """`value` added up over the ranks (in place), the same on all of them."""
        if self.ranks > 1:
            dist.all_reduce(value)
        return value

    def largest(self, value: Tensor) -> Tensor:
        """The largest `value` (0-d) of all ranks."""
        if self.ranks > 1:
            dist.all_reduce(value, op=dist.ReduceOp.MAX)
        return value

    def gather(self, item: T) -> list[T]:
        """`item` of every rank by rank on the leader, [] elsewhere."""
        if self.ranks == 1:
            return [item]
        items: list[Any] | None = [None] * self.ranks if self.leader else None
        dist.gather_object(item, items, group=self.side)
        return items or []

    def on_leader(self, action: Callable[[], T]) -> T:
        """The result of `action`, which only the leader runs; its InputError, NotWritten, OSError is raised on all."""
        result: T | None = None
        error: Exception | None = None
        if self.leader:
            try:
                result = action()
            except (InputError, NotWritten, OSError) as caught:
                error = caught
        result, error = self.share((result, error))
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def share(self, item: T) -> T:
        """The leader's `item`, on all ranks."""
        if self.ranks == 1:
            return item
        box: list[Any] = [item]
        dist.broadcast_object_list(box, group=self.side)
        return box[0]


def world_size() -> tuple[int, int]:
    """(rank, ranks) as the launcher (torchrun) says; (0, 1) under plain python. Raises InputError for nonsense."""
    at = meeting.place()
    return at.rank, at.ranks


def pick_device(runtime: RuntimeConfig) -> torch.device:
    """The device of this rank. Raises InputError when cuda is asked for and there is none, or it cannot be used."""
    has_cuda = torch.cuda.is_available()
    if runtime.device == "cuda" and not has_cuda:
        raise InputError("runtime.device=cuda, but torch sees no CUDA device here")
    if runtime.device == "cpu" or not has_cuda:
        return torch.device("cpu")
    if torch.cuda._is_in_bad_fork():  # told even where a mere count of devices, without NVML, was the use
        raise InputError(
            "the process that forked this one has used CUDA, and no fork can: start it from a fresh process, seeds one "
            "after another (runtime.parallel_seeds=off)"
        )
    local = meeting.place().local
    if local >= torch.cuda.device_count():
        raise InputError(f"{local + 1} ranks on this node, but only {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", local)


@contextlib.contextmanager
def start(runtime: RuntimeConfig) -> Iterator[World]:
    """Joins the process group that torchrun describes and sets the process-wide switches; leaves it at the end.

    After an error the group stays: entry.run says why, to the other ranks too, before the process ends.
    """
    at = meeting.place()
    rank, ranks = at.rank, at.ranks
    device = pick_device(runtime)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = not runtime.deterministic
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Else each new tensor is filled with NaN, by a kernel of its own.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    side = rows = None
    if ranks > 1:
        backend, limit = "nccl" if device.type == "cuda" else "gloo", datetime.timedelta(minutes=30)
        dist.init_process_group(backend, store=meeting.meet(at), rank=rank, world_size=ranks, timeout=limit)
        side, rows = dist.new_group(backend="gloo"), dist.new_group()
    rounding = tf32.settle(runtime, device)
    yield World(rank=rank, ranks=ranks, device=device, side=side, rows=rows, tf32=rounding)
    if ranks > 1:
        peers.part()
        dist.destroy_process_group()


def autocast_factory(runtime: RuntimeConfig, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes the context in which networks run: autocast to runtime.amp, or nothing."""
    if runtime.amp == "off":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=DTYPES[runtime.amp])


def place(network: M, runtime: RuntimeConfig, device: torch.device) -> M:
    """`network` on the device in the chosen memory layout."""
    layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
    return network.to(device=device, memory_format=layout)  # type: ignore[call-overload]


def allow_shapes() -> None:
    """dynamo's own limit of 8 shapes would end in eager mode."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)


def compile_in_place(network: nn.Module, runtime: RuntimeConfig) -> None:
    """One graph for each shape of a batch: the shapes of a run are few (the last batch, images that grow) and known,
    and graphs of one shape are the faster ones."""
    allow_shapes()
    network.compile(mode=COMPILE_MODES[runtime.compile], dynamic=False)


def compile_graph(graph: fx.GraphModule) -> Callable[..., Any]:
    """A recorded step as compiled code. Random numbers stay those of the uncompiled operations."""
    torch._inductor.config.fallback_random = True
    allow_shapes()  # dynamo counts all graphs of a process together; beyond the limit fullgraph makes it say so
    return torch.compile(graph, mode=COMPILE_MODES["default"], dynamic=False, fullgraph=True)


def as_graph(runtime: RuntimeConfig) -> bool:
    """Whether the whole step is to be one graph."""
    return runtime.compile in ("graph", "graph_fused")


def compile_pixels(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What makes the pixels of a batch, compiled for each number of rows."""
    allow_shapes()
    return torch.compile(make, mode=COMPILE_MODES["default"], dynamic=False)


def recorder_for(runtime: RuntimeConfig, world: World) -> Recorder | None:
    """What makes graphs of steps under runtime.compile=graph: CUDA's capture, or on a CPU a trace that is compiled.

    graph_fused: on CUDA the compiled trace, captured (one rank; on several the plain step is captured). None where
    steps run plainly: in other modes, and on several ranks without CUDA, whose messages no trace sees.
    """
    if not as_graph(runtime):
        return None
    if world.device.type == "cuda":
        capture = CudaRecorder(world.device, world.ranks, compile_pixels)
        fused = runtime.compile == "graph_fused" and world.ranks == 1
        return FusedCapture(capture, Tracer(compile_graph)) if fused else capture
    return Tracer(compile_graph) if world.ranks == 1 else None


def prepare_frozen(network: M, runtime: RuntimeConfig, device: torch.device) -> M:
    """A network that is only evaluated: placed, and compiled where asked."""
    network = place(network, runtime, device).eval()
    if runtime.compile in COMPILE_MODES:
        compile_in_place(network, runtime)
    return network


def prepare_student(student: nn.Module, runtime: RuntimeConfig, world: World) -> nn.Module:
    """The trained network, placed; its batch-norm layers over all ranks where asked.

    Raises InputError for batch norms of a class of their own (timm's, with an activation inside): either conversion
    would leave them as they are or lose what they add.
    """
    if runtime.sync_bn and world.ranks > 1:
        kinds = {type(m) for m in student.modules() if isinstance(m, nn.BatchNorm2d)} - {nn.BatchNorm2d}
        if kinds:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise InputError(f"runtime.sync_bn=true cannot convert this student's {names}: leave it false")
        student = (
            nn.SyncBatchNorm.convert_sync_batchnorm(student)
            if world.device.type == "cuda"
            else with_global_statistics(student)
        )
    return place(student, runtime, world.device)


def wrap_step(step: nn.Module, runtime: RuntimeConfig, world: World) -> nn.Module:
    """The step compiled where asked, then under DDP on several ranks (`DDP(compiled)`: bucket hooks stay outside)."""
    if runtime.compile in COMPILE_MODES:
        compile_in_place(step, runtime)
    if world.ranks == 1:
        return step
    # Buffers stay each rank's own; torch 2.13 renamed the switch.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    own_buffers: dict[str, Any] = {
        "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False
    }
    return DistributedDataParallel(step, bucket_cap_mb=runtime.bucket_mb, gradient_as_bucket_view=True, **own_buffers)


def unreduced(step: nn.Module, last: bool) -> AbstractContextManager[object]:
    """The context of one slice of a batch: gradients travel with the last one only."""
    if last or not isinstance(step, DistributedDataParallel):
        return contextlib.nullcontext()
    return step.no_sync()


def forget_reduction(step: nn.Module) -> None:
    """After a backward that was broken off: DDP would wait for its other gradients."""
    if isinstance(step, DistributedDataParallel):
        step.reducer._reset_state()


def settle_buckets(wrapped: nn.Module, run_once: Callable[[], Tensor]) -> None:
    """One forward and backward whose traces are undone, before any state is loaded.

    DDP lays its buckets out anew after the first backward, in the order in which gradients arrived. Other buckets are
    other orders of summation, so that a resumed run on three ranks would differ from an unbroken one in the last bits.
    `run_once` computes a loss; buffers and the random state are put back afterwards, gradients dropped.
    """
    if not isinstance(wrapped, DistributedDataParallel):
        return
    devices = [p.device for p in wrapped.parameters() if p.device.type == "cuda"][:1]
    kept = {name: buffer.detach().clone() for name, buffer in wrapped.named_buffers()}
    with torch.random.fork_rng(devices=devices):
        run_once().backward()
        run_once().backward()  # the new layout is built at the start of the second forward
    for name, buffer in wrapped.named_buffers():
        buffer.copy_(kept[name])
    wrapped.zero_grad(set_to_none=True)
