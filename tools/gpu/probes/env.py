"""What is there, and whether a fork of a parent that asked for a device can use it."""

import importlib.metadata
import os
import platform

import numpy as np
import torch

from pipeline.engine.seeds import prepare_to_fork
from tools.gpu.probes.bench import Bench

OPTIONAL = ("torchvision", "timm", "triton", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "ffcv")


def run(bench: Bench) -> None:
    # The child comes first: once this process has used the device, no child could.
    prepare_to_fork()
    asked = torch.cuda.is_available()
    code = code_of_child(bench.device)
    bench.judge("a device in a fork of prepare_to_fork's parent", f"asked {asked}, child's code {code}", code == 0)
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else "-"
    bench.say("torch, CUDA, cuDNN", f"{torch.__version__}, {torch.version.cuda or '-'}, {cudnn}")
    bench.say("Python, numpy", f"{platform.python_version()}, {np.__version__}")
    bench.say("optional", ", ".join(f"{name} {version_of(name)}" for name in OPTIONAL))
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        bench.say("device", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")


def version_of(name: str) -> str:
    """The installed version of a package, - where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def code_of_child(device: torch.device) -> int:
    """0 where a forked process can compute on the device."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = int(torch.ones(1, device=device).add_(1).item() != 2)
        except BaseException as error:  # nothing may travel past os._exit
            print("child:", error, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
