"""File formats of an exported network. Each writer returns a function that runs what it wrote, for the check.

A file says what it is (`said`, run_folder/description.py) in its format's own place for that: safetensors' metadata,
ONNX's metadata_props, TorchScript's extra files; a state dict as an attribute, so that it is a state dict still.
Python writes the bytes, not the formats' libraries: a full disk is an OSError then."""

import copy
import io
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.contracts import InputError
from pipeline.deployment.inference import Inference
from pipeline.registry import Registry

Run = Callable[[Tensor], Tensor]
Said = Mapping[str, str]  # one entry; {} where nothing is known
Writer = Callable[[Inference, Tensor, Path, Said], Run]
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


def plain_state(network: Inference) -> dict[str, Tensor]:
    """What files of tensors hold: copies on the CPU, keys as in Inference.plain_state."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in network.plain_state().items()}


@FORMATS.register("safetensors")
def write_safetensors(network: Inference, image_BCHW: Tensor, path: Path, said: Said) -> Run:
    """The weights alone, in the published key layout; safe to read anywhere."""
    from safetensors.torch import load_file, save

    path.write_bytes(save(plain_state(network), metadata=dict(said) or None))
    return _reloaded(network, load_file(path))


@FORMATS.register("state_dict")
def write_state_dict(network: Inference, image_BCHW: Tensor, path: Path, said: Said) -> Run:
    """A bare state dict by torch.save, as KDrefine's converter writes it."""
    content, state = io.BytesIO(), OrderedDict(plain_state(network))
    vars(state).update(said)
    torch.save(state, content)
    path.write_bytes(content.getvalue())
    return _reloaded(network, torch.load(path, weights_only=True))


@FORMATS.register("torchscript")
def write_torchscript(network: Inference, image_BCHW: Tensor, path: Path, said: Said) -> Run:
    """A traced module with its weights; torch.jit.load and libtorch run it, any batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.13 announces that TorchScript will go one day
        content = io.BytesIO()
        traced = torch.jit.trace(network, (image_BCHW,), check_trace=False)
        torch.jit.save(traced, content, _extra_files={f"{name}.json": text for name, text in said.items()})
        path.write_bytes(content.getvalue())
        return torch.jit.load(str(path), map_location="cpu")


@FORMATS.register("onnx")
def write_onnx(network: Inference, image_BCHW: Tensor, path: Path, said: Said) -> Run:
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
    program.model.metadata_props.update(said)
    program.save(str(path))
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
