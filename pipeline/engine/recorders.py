"""How a step becomes one graph: captured by CUDA, or traced into one list of operations (on a CPU).

Either way the recorded function works on tensors that stay where they are, its host-side numbers are those of the
moment, and its Python runs no more.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pipeline.engine.untouched import State, untouched

Body = Callable[[], None]
Pixels = Callable[..., Tensor]
INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}


class NotCapturable(RuntimeError):
    """The recorded function looks at the values of its tensors: a graph cannot. ran: it was run all the same."""

    def __init__(self, reason: str, *, ran: bool) -> None:
        super().__init__(reason)
        self.ran = ran


class Recorder(Protocol):
    """warm_up: plain runs of a function on tensors of one shape before it is recorded. short_batches, evaluations: are
    they worth a graph?"""

    warm_up: int
    short_batches: bool
    evaluations: bool

    def fuse(self, make: Pixels) -> Pixels:
        """What makes the pixels of a batch, as one kernel of the graph."""

    def run(self, body: Body) -> None:
        """A plain run, as recording needs it."""

    def record(self, body: Body, state: State) -> Body:
        """Runs `body` once, and returns what runs it again. state: what a run changes. Raises NotCapturable."""


class CudaRecorder:
    """CUDA graphs out of one memory pool.

    Plain runs use the stream of the capture, so that what autograd ties to a stream fits. DDP lays out its buckets and
    logs its first iterations: torch asks for eleven of them before a capture.
    """

    short_batches = evaluations = True

    def __init__(self, device: torch.device, ranks: int, compile_pixels: Callable[[Pixels], Pixels]) -> None:
        self.warm_up = 11 if ranks > 1 else 3
        self._compile_pixels = compile_pixels
        self._fused: dict[Pixels, Pixels] = {}
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def fuse(self, make: Pixels) -> Pixels:
        """Compiled: a capture alone would replay its dozen kernels."""
        if make not in self._fused:
            self._fused[make] = self._compile_pixels(make)
        return self._fused[make]

    def run(self, body: Body) -> None:
        """On the capturing stream, in step with the present one."""
        present = torch.cuda.current_stream()
        self.stream.wait_stream(present)
        with torch.cuda.stream(self.stream):
            body()
        present.wait_stream(self.stream)

    def record(self, body: Body, state: State) -> Body:
        """A capture runs nothing; the first replay is the run."""
        graph = torch.cuda.CUDAGraph()
        # Other threads (loaders) may allocate or copy meanwhile: only this one's calls are checked.
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                body()
        except RuntimeError as error:
            raise NotCapturable(str(error).splitlines()[0], ran=False) from error
        graph.replay()
        return graph.replay


class FusedCapture:
    """A trace that is compiled, runs a few times as it is (its kernels are chosen then), and is captured after that.

    Teacher, student, losses and update are compiled together: what a capture of the plain step would keep apart. All
    steps on whole batches run compiled code, as the tracer's do.
    """

    warm_up = 0
    short_batches = evaluations = False

    def __init__(self, capture: CudaRecorder, tracer: "Tracer") -> None:
        self.capture, self.tracer = capture, tracer

    def fuse(self, make: Pixels) -> Pixels:
        """As it is: the whole graph is compiled."""
        return self.tracer.fuse(make)

    def run(self, body: Body) -> None:
        """On the stream of the capture."""
        self.capture.run(body)

    def record(self, body: Body, state: State) -> Body:
        """See above; every call is one run of `body`."""
        compiled = self.tracer.record(body, state)
        calls = [0]
        replays: list[Body] = []

        def run() -> None:
            calls[0] += 1
            if replays:
                replays[0]()
            elif calls[0] <= self.capture.warm_up:
                self.capture.run(compiled)
            else:
                replays.append(self.capture.record(compiled, state))

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
        self.warm_up = 2 if compile_graph is None else 0
        self.short_batches = compile_graph is None

    def fuse(self, make: Pixels) -> Pixels:
        """As it is: the whole graph is compiled."""
        return make

    def run(self, body: Body) -> None:
        """As it is."""
        body()

    def record(self, body: Body, state: State) -> Body:
        """With `compile_graph`, two runs that leave no trace come first: see `untouched`."""
        if self.compile_graph is None:
            graph, inputs = self._trace(body)
            return _without_gradients(graph, inputs)
        with untouched(state):
            body()  # brings up what the first run makes: it must not become part of the graph
        with untouched(state):
            graph, inputs = self._trace(body)
        _describe_fused_updates()
        replay = _without_gradients(self.compile_graph(graph), inputs)
        replay()
        return replay

    def _trace(self, body: Body) -> tuple[fx.GraphModule, list[Tensor]]:
        """(graph, its inputs), after one run of `body`. Tensors from outside become inputs, where they lie."""

        def traced() -> list[Tensor]:
            body()
            return []

        graph = make_fx(traced)()
        inputs = lifted(graph)
        looking = [str(node.target) for node in graph.graph.nodes if looks_at_values(node)]
        if looking:
            raise NotCapturable(f"{looking[0]} depends on values", ran=self.compile_graph is None)
        return graph, inputs


def _without_gradients(graph: Callable[..., Any], inputs: list[Tensor]) -> Body:
    def replay() -> None:
        with torch.no_grad():
            graph(*inputs)

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


_library: list[torch.library.Library] = []


def _describe_fused_updates() -> None:
    """torch 2.13 does not say what shape _fused_sgd_ returns (none: it works in place), which compiling asks."""
    if _library:
        return
    _library.append(torch.library.Library("aten", "IMPL", "Meta"))
    for name in ("_fused_sgd_", "_fused_sgd_.tensor_lr"):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", "Meta"):
            _library[0].impl(name, lambda *args, **keys: None)
