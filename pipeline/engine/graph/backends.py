"""How a step becomes one graph: captured by CUDA, or traced into one list of operations (on a CPU).

Either way the recorded function works on tensors that stay where they are, its host-side numbers are those of the
moment, and its Python runs no more.
"""

import re
from collections.abc import Callable
from subprocess import SubprocessError
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline.engine.graph.capture import captured, first_line, put_right
from pipeline.engine.graph.dry_run import State, untouched
from pipeline.engine.graph.fused_updates import make_compilable

Body = Callable[[], Any]
Replay = Callable[[], bool]  # one run; tells whether time went into recording
Fallback = Callable[[str, str], Any]  # told why a function is not recorded, and how its calls run instead
Pixels = Callable[..., Tensor]
READ_ON_HOST = re.compile(r"get value out of a tracing tensor with (\S+)")  # what make_fx says of it
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


REPLAYED, COMPILED = "replayed", "compiled"


class NotCapturable(RuntimeError):
    """The recorded function looks at the values of its tensors: a graph cannot. ran: it was run all the same."""

    def __init__(self, reason: str, *, ran: bool) -> None:
        super().__init__(reason)
        self.ran = ran


def untold(reason: str, instead: str) -> None:
    """A Fallback for whoever does not ask."""


class Recorder(Protocol):
    """warm_up: plain runs of a function on tensors of one shape before it is recorded. short_batches, evaluations: are
    they worth a graph? makes: what runs once something is recorded, in one word."""

    makes: str
    warm_up: int
    short_batches: bool
    evaluations: bool

    def fuse(self, make: Pixels, fallback: Fallback = untold) -> Pixels:
        """What makes the pixels of a batch, as one kernel of the graph. fallback: told where that cannot be."""

    def run(self, body: Body) -> None:
        """A plain run, as recording needs it."""

    def record(self, body: Body, state: State, fallback: Fallback = untold) -> Replay:
        """Runs `body` once, and returns what runs it again. state: what a run changes; fallback: told where a part of
        the recording fails without which it can do. Raises NotCapturable."""


def compiled_or(make: Pixels, compiled: Pixels, fallback: Fallback) -> Pixels:
    """`compiled`, and `make` from the first call on that fails: without a C compiler (images of torch that only run it
    have none) Triton makes no kernels, and a capture does without them."""
    running = [compiled]

    def run(*tensors: Tensor) -> Tensor:
        if running[0] is not make:
            try:
                return running[0](*tensors)
            except (RuntimeError, OSError, SubprocessError) as error:
                running[0] = make
                fallback(f"pixels cannot be compiled: {first_line(error)}", "make them by kernels of their own")
        return make(*tensors)

    return run


class CudaRecorder:
    """CUDA graphs out of one memory pool.

    Plain runs use the stream of the capture, so that what autograd ties to a stream fits. DDP lays out its buckets and
    logs its first iterations: torch asks for eleven of them before a capture.
    """

    makes = REPLAYED
    short_batches = evaluations = True

    def __init__(self, device: torch.device, ranks: int, compile_pixels: Callable[[Pixels], Pixels]) -> None:
        self.device = device
        self.warm_up = 11 if ranks > 1 else 3
        self._compile_pixels = compile_pixels
        self._fused: dict[Pixels, Pixels] = {}
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def fuse(self, make: Pixels, fallback: Fallback = untold) -> Pixels:
        """Compiled: a capture alone would replay its dozen kernels."""
        if make not in self._fused:
            self._fused[make] = compiled_or(make, self._compile_pixels(make), fallback)
        return self._fused[make]

    def run(self, body: Body) -> None:
        """On the capturing stream, in step with the present one."""
        present = torch.cuda.current_stream()
        self.stream.wait_stream(present)
        with torch.cuda.stream(self.stream):
            body()
        present.wait_stream(self.stream)

    def record(self, body: Body, state: State, fallback: Fallback = untold) -> Replay:
        """A capture runs nothing; the first replay is the run. Raises DeviceBroken where CUDA works no more."""
        try:
            graph = captured(body, self.stream, self.pool)
        except RuntimeError as error:
            put_right(self.device, self.stream, self.pool)
            raise NotCapturable(f"a capture failed: {first_line(error)}", ran=False) from error

        def replay() -> bool:
            graph.replay()
            return False

        replay()
        return replay


class FusedCapture:
    """A trace that is compiled, runs a few times as it is (its kernels are chosen then), and is captured after that.

    Teacher, student, losses and update are compiled together: what a capture of the plain step would keep apart. All
    steps on whole batches run compiled code, as the tracer's do.
    """

    makes = COMPILED
    warm_up = 0
    short_batches = evaluations = False

    def __init__(self, capture: CudaRecorder, tracer: "Tracer") -> None:
        self.capture, self.tracer = capture, tracer

    def fuse(self, make: Pixels, fallback: Fallback = untold) -> Pixels:
        """As it is: the whole graph is compiled."""
        return self.tracer.fuse(make, fallback)

    def run(self, body: Body) -> None:
        """On the stream of the capture."""
        self.capture.run(body)

    def record(self, body: Body, state: State, fallback: Fallback = untold) -> Replay:
        """See above; every call is one run of `body`. Where the capture fails, the compiled trace runs uncaptured."""
        compiled = self.tracer.record(body, state, fallback)
        calls = [0]
        replays: list[Replay] = []

        def uncaptured() -> bool:
            self.capture.run(compiled)
            return False

        def run() -> bool:
            if replays:
                return replays[0]()
            calls[0] += 1
            if calls[0] <= self.capture.warm_up:
                return uncaptured()
            try:
                replays.append(self.capture.record(compiled, state, fallback))
                self.makes = REPLAYED
            except NotCapturable as error:
                fallback(str(error), "run compiled, but are not captured")
                replays.append(uncaptured)
                uncaptured()
            return True

        return run


class Tracer:
    """One list of ATen operations: forward, backward, update and sums together, compiled by `compile_graph`.

    Tracing runs the operations. Without `compile_graph` they are replayed one by one: the plain step's bits, which is
    how tests see on any machine what a capture would replay. With it, every step on whole batches runs compiled code,
    the first one too, so that a resumed run meets the same code; short batches always run plainly, because a minute of
    compiling is not worth one step an epoch.
    """

    evaluations = False

    def __init__(self, compile_graph: Callable[[fx.GraphModule], Callable[..., Any]] | None) -> None:
        self.compile_graph = compile_graph
        self.makes = REPLAYED if compile_graph is None else COMPILED
        self.warm_up = 2 if compile_graph is None else 0
        self.short_batches = compile_graph is None

    def fuse(self, make: Pixels, fallback: Fallback = untold) -> Pixels:
        """As it is: the whole graph is compiled."""
        return make

    def run(self, body: Body) -> None:
        """As it is."""
        body()

    def record(self, body: Body, state: State, fallback: Fallback = untold) -> Replay:
        """With `compile_graph`, two runs that leave no trace come first: see `untouched`."""
        if self.compile_graph is None:
            graph, inputs = self._trace(body)
            return _without_gradients(graph, inputs)
        with untouched(state):
            body()  # brings up what the first run makes: it must not become part of the graph
        with untouched(state):
            graph, inputs = self._trace(body)
        make_compilable(graph)
        replay = _without_gradients(self.compile_graph(graph), inputs)
        try:
            replay()  # compiles first: what cannot be compiled has not run
        except torch._dynamo.exc.TorchDynamoException as error:
            raise NotCapturable(f"the step cannot be compiled: {first_line(error)}", ran=False) from error
        return replay

    def _trace(self, body: Body) -> tuple[fx.GraphModule, list[Tensor]]:
        """(graph, its inputs), after one run of `body`. Tensors from outside become inputs, where they lie."""

        def traced() -> list[Tensor]:
            body()
            return []

        # What follows operations is kept by thread: on CUDA the backward would run in another one (as in AOTAutograd).
        try:
            with torch.autograd.set_multithreading_enabled(False):
                graph = make_fx(traced)()
        except RuntimeError as error:
            if (read := READ_ON_HOST.search(str(error))) is None:
                raise
            raise NotCapturable(f"{read[1]} depends on values", ran=False) from error
        inputs = lifted(graph)
        looking = [str(node.target) for node in graph.graph.nodes if looks_at_values(node)]
        if looking:
            raise NotCapturable(f"{looking[0]} depends on values", ran=self.compile_graph is None)
        return graph, inputs


def _without_gradients(graph: Callable[..., Any], inputs: list[Tensor]) -> Replay:
    def replay() -> bool:
        with torch.no_grad():
            graph(*inputs)
        return False

    return replay


def looks_at_values(node: fx.Node) -> bool:
    """Whether an operation's result has a shape, or is a number, that the host must read from the device."""
    if getattr(node.target, "overloadpacket", None) in INDEXING:
        kinds = {i.meta["val"].dtype for i in node.args[1] if isinstance(i, fx.Node)}  # type: ignore[union-attr]
        return not kinds.isdisjoint({torch.bool, torch.uint8})  # a mask: its ones are counted
    tags = getattr(node.target, "tags", ())
    return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags


def lifted(graph: fx.GraphModule) -> list[Tensor]:
    """Turns the tensors that `graph` holds into its inputs, which it returns, and drops the profiler's marks."""
    nodes = list(graph.graph.nodes)
    for node in reversed(nodes):
        if "profiler" in str(node.target):
            graph.graph.erase_node(node)
    inputs: dict[str, tuple[fx.Node, Tensor]] = {}
    with graph.graph.inserting_before(nodes[0]):
        for node in nodes:
            if node.op == "get_attr" and node.target not in inputs:
                place = graph.graph.placeholder(f"held{len(inputs)}")
                place.meta["val"] = getattr(graph, node.target).detach()
                inputs[node.target] = (place, place.meta["val"])
    for node in nodes:
        if node.op == "get_attr":
            node.replace_all_uses_with(inputs[node.target][0])
            graph.graph.erase_node(node)
    graph.recompile()
    return [tensor for _, tensor in inputs.values()]
