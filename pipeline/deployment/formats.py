"""File formats of an exported network. Each writer returns a function that runs what it wrote, for the check.

Python writes the bytes, not the formats' libraries: a full disk is an OSError then."""

import copy
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from pipeline.contracts import InputError
from pipeline.deployment.inference import Inference
from pipeline.registry import Registry

Run = Callable[[Tensor], Tensor]
Writer = Callable[[Inference, Tensor, Path], Run]
FORMATS: Registry[Writer] = Registry("format", __name__.rpartition(".")[0])
SUFFIX = {"safetensors": ".safetensors", "state_dict": ".pth", "torchscript": ".pt", "onnx": ".onnx"}


def _reloaded(network: Inference, state: dict[str, Tensor]) -> Run:
    """The network refilled from what was read back: every tensor of the copy is overwritten, or loading fails."""
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            tensor.zero_()
    own = {key: value for key, value in state.items() if not key.startswith("predictor.")}
    twin.network.load_state_dict(own)
    if twin.predictor is not None:
        twin.predictor.load_state_dict({k[len("predictor.") :]: v for k, v in state.items() if k not in own})
    return twin


def _plain_state(network: Inference) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous().clone() for key, value in network.plain_state().items()}


@FORMATS.register("safetensors")
def write_safetensors(network: Inference, image_BCHW: Tensor, path: Path) -> Run:
    """The weights alone, in the published key layout; safe to read anywhere."""
    from safetensors.torch import load_file, save

    path.write_bytes(save(_plain_state(network)))
    return _reloaded(network, load_file(path))


@FORMATS.register("state_dict")
def write_state_dict(network: Inference, image_BCHW: Tensor, path: Path) -> Run:
    """A bare state dict by torch.save, as KDrefine's converter writes it."""
    content = io.BytesIO()
    torch.save(_plain_state(network), content)
    path.write_bytes(content.getvalue())
    return _reloaded(network, torch.load(path, weights_only=True))


@FORMATS.register("torchscript")
def write_torchscript(network: Inference, image_BCHW: Tensor, path: Path) -> Run:
    """A traced module with its weights; torch.jit.load and libtorch run it, any batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 announces that TorchScript will go one day
        content = io.BytesIO()
        torch.jit.save(torch.jit.trace(network, (image_BCHW,), check_trace=False), content)
        path.write_bytes(content.getvalue())
        return torch.jit.load(str(path), map_location="cpu")


@FORMATS.register("onnx")
def write_onnx(network: Inference, image_BCHW: Tensor, path: Path) -> Run:
    """ONNX, input `image` [batch, 3, H, W], output `logits` [batch, K], any batch size; checked in onnxruntime."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as error:
        raise InputError(f"to=onnx needs {error.name}: pip install -e .[export]") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (image_BCHW,),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
