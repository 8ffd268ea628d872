"""The DALI pipeline: decodes parts of images, and where `finish` says so resizes, cuts and mirrors them too."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import views
from pipeline.contracts import InputError
from pipeline.loaders.dali.request import Ask, fitted
from pipeline.loaders.plan import Plan

MISSING = "data.loader=dali needs NVIDIA DALI: `make loaders` installs it, and so does the extra [dali]"


class Graph(NamedTuple):
    """device_id: None decodes on the CPU. finish: images leave the pipeline at ask.size, else as they are decoded."""

    rows: int
    threads: int
    depth: int
    finish: bool
    device_id: int | None
    hw_decoder_load: float


def require_dali() -> Any:
    """The package. Raises InputError where it is not installed."""
    try:
        import nvidia.dali as dali
        import nvidia.dali.fn
        import nvidia.dali.types  # noqa: F401
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("nvidia"):
            raise InputError(MISSING) from None
        raise InputError(f"DALI cannot be imported: {error}") from None
    return dali


class Decoder:
    """A pipeline that is handed one batch at a time: at most `depth` may be under way."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self._plan = plan
        self._given: list[tuple[Any, ...]] = []
        self._fields = _fields(graph, plan)
        self._pipe = _pipeline(graph, plan, self._fields, self._next)

    def _next(self) -> tuple[Any, ...]:
        if not self._given:
            raise StopIteration
        return self._given.pop()

    def begin(self, ask: Ask) -> None:
        """Hands the batch over; its data must live until `outputs` has returned it: DALI makes no copy."""
        self._given.append(tuple(field(self._plan, ask) for field in self._fields.values()))
        # A pipeline prefetches on its own until its source has ended: it is told that after each batch.
        self._pipe.reset()
        self._pipe.schedule_run()

    def outputs(self) -> Any:
        """The TensorList of the oldest batch, valid until the next call. Raises RuntimeError if it cannot be decoded:
        the pipeline is of no use afterwards."""
        return self._pipe.outputs()[0]


def _int32(array: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.ascontiguousarray(array, dtype=np.int32)


def _shift(plan: Plan, ask: Ask) -> NDArray[np.int32]:
    """Where the padded crop begins, counted from the corner of the image without its border."""
    top_B, left_B = views.crop_offsets(plan.data_seed, ask.view, ask.index_B, plan.border)
    return _int32(np.stack([np.asarray(top_B), np.asarray(left_B)], axis=1) - plan.border)


def _fields(graph: Graph, plan: Plan) -> dict[str, Callable[[Plan, Ask], Any]]:
    """The inputs of the pipeline: DALI warns of one that is not used."""
    fields: dict[str, Callable[[Plan, Ask], Any]] = {
        "data": lambda _, ask: ask.data,
        "start": lambda _, ask: _int32(ask.region_B4[:, :2]),
        "shape": lambda _, ask: _int32(ask.region_B4[:, 2:]),
    }
    if not graph.finish:
        return fields
    fields["flip"] = lambda _, ask: _int32(ask.flip_B)
    if plan.windows:
        return fields | {"size": lambda _, ask: np.full((len(ask.index_B), 2), ask.size, np.float32)}
    fields["size"] = lambda plan, ask: fitted(plan, ask)[0].astype(np.float32)
    fields["corner"] = lambda plan, ask: _int32(fitted(plan, ask)[1])
    return fields | ({"shift": _shift} if plan.border else {})


def _pipeline(graph: Graph, plan: Plan, names: dict[str, Any], source: Callable[[], tuple[Any, ...]]) -> Any:
    dali = require_dali()
    fn, types = dali.fn, dali.types
    kinds = {"data": types.UINT8, "size": types.FLOAT}
    pipe = dali.Pipeline(
        batch_size=graph.rows,
        num_threads=graph.threads,
        device_id=graph.device_id,
        prefetch_queue_depth=graph.depth,
    )
    with pipe:
        inputs = fn.external_source(
            source=source,
            num_outputs=len(names),
            batch=True,
            dtype=[kinds.get(name, types.INT32) for name in names],
            ndim=[0 if name == "flip" else 1 for name in names],
            no_copy=True,
        )
        pipe.set_outputs(_images(dali, graph, plan, dict(zip(names, inputs, strict=True))))
    pipe.build()
    return pipe


def _images(dali: Any, graph: Graph, plan: Plan, given: dict[str, Any]) -> Any:
    fn, types = dali.fn, dali.types
    image = fn.decoders.image_slice(
        given["data"],
        start=given["start"],
        shape=given["shape"],
        device="cpu" if graph.device_id is None else "mixed",
        axes=[0, 1],
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,
        hw_decoder_load=graph.hw_decoder_load,
    )
    if not graph.finish:
        return image
    image = fn.resize(image, size=given["size"], interp_type=types.INTERP_LINEAR, antialias=True)
    square = {"shape": [plan.image_size, plan.image_size], "axes": [0, 1]}
    if "corner" in given:
        image = fn.slice(image, start=given["corner"], **square)
    if "shift" in given:
        image = fn.slice(image, start=given["shift"], out_of_bounds_policy="pad", fill_values=0, **square)
    return fn.flip(image, horizontal=given["flip"])
