"""The DALI pipeline: decodes parts of images, and where `finish` says so resizes, cuts and mirrors them too."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline import views
from pipeline.contracts import InputError
from pipeline.loaders.config import LoaderConfig
from pipeline.loaders.dali.request import Ask, fitted

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

    def __init__(self, graph: Graph, config: LoaderConfig) -> None:
        self._config = config
        self._given: list[tuple[Any, ...]] = []
        self._fields = _fields(graph, config)
        self._pipe = _pipeline(graph, config, self._fields, self._next)

    def _next(self) -> tuple[Any, ...]:
        if not self._given:
            raise StopIteration
        return self._given.pop()

    def begin(self, ask: Ask) -> None:
        """Hands the batch over; its data must live until `outputs` has returned it: DALI makes no copy."""
        self._given.append(tuple(field(self._config, ask) for field in self._fields.values()))
        # A pipeline prefetches on its own until its source has ended: it is told that after each batch.
        self._pipe.reset()
        self._pipe.schedule_run()

    def outputs(self) -> Any:
        """The TensorList of the oldest batch, valid until the next call. Raises RuntimeError if it cannot be decoded:
        the pipeline is of no use afterwards."""
        return self._pipe.outputs()[0]


def _int32(array: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int32]:
    return np.ascontiguousarray(array, dtype=np.int32)


def _shift(config: LoaderConfig, ask: Ask) -> NDArray[np.int32]:
    """Where the padded crop begins, counted from the corner of the image without its border."""
    top_B, left_B = views.crop_offsets(config.data.seed, ask.view, ask.index_B, config.border)
    return _int32(np.stack([np.asarray(top_B), np.asarray(left_B)], axis=1) - config.border)


def _fields(graph: Graph, config: LoaderConfig) -> dict[str, Callable[[LoaderConfig, Ask], Any]]:
    """The inputs of the pipeline: DALI warns of one that is not used."""
    fields: dict[str, Callable[[LoaderConfig, Ask], Any]] = {
        "data": lambda _, ask: ask.data,
        "start": lambda _, ask: _int32(ask.region_B4[:, :2]),
        "shape": lambda _, ask: _int32(ask.region_B4[:, 2:]),
    }
    if not graph.finish:
        return fields
    fields["flip"] = lambda _, ask: _int32(ask.flip_B)
    if config.windows:
        return fields | {"size": lambda _, ask: np.full((len(ask.index_B), 2), ask.size, np.float32)}
    fields["size"] = lambda config, ask: fitted(config, ask)[0].astype(np.float32)
    fields["corner"] = lambda config, ask: _int32(fitted(config, ask)[1])
    return fields | ({"shift": _shift} if config.border else {})


def _pipeline(graph: Graph, config: LoaderConfig, names: dict[str, Any], source: Callable[[], tuple[Any, ...]]) -> Any:
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
        pipe.set_outputs(_images(dali, graph, config, dict(zip(names, inputs, strict=True))))
    pipe.build()
    return pipe


def _images(dali: Any, graph: Graph, config: LoaderConfig, given: dict[str, Any]) -> Any:
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
    square = {"shape": [config.image_size, config.image_size], "axes": [0, 1]}
    if "corner" in given:
        image = fn.slice(image, start=given["corner"], **square)
    if "shift" in given:
        image = fn.slice(image, start=given["shift"], out_of_bounds_policy="pad", fill_values=0, **square)
    return fn.flip(image, horizontal=given["flip"])
