"""Two run folders of two epochs: a teacher alone and its student, with weights that were never trained."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipeline.builders import networks
from pipeline.builders.names import train_config
from pipeline.run_folder.folder import RunDir


def write(folder: Path, *words: str, epochs: int = 2, finished: bool = True) -> Path:
    """A run of the embedded data set as train.py leaves it; `words` are its keys."""
    folder.mkdir(parents=True)
    argv = ["dataset=synthetic", "optim.epochs=2", "runtime.device=cpu", *words]
    config = train_config(argv)
    files = RunDir(folder)
    files.claim(config)
    for epoch in range(1, epochs + 1):
        files.append(record(epoch))
    torch.manual_seed(config.seed)
    network = networks.make(str(config.student.model), num_classes=20, image_size=32)
    save_file(network.state_dict(), folder / "student.safetensors")
    if finished:
        files.write_summary({"images_per_second": 500.0, "top1_best": 40.0})
    return folder


def record(epoch: int) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    figures = {"lr": 0.1 / epoch, "train_loss": 3.0 / epoch, "train_top1": 10.0 * epoch, "test_top1": 20.0 * epoch}
    return {"epoch": epoch, "terms": {}, "images_per_second": 400.0, "data_wait": 0.0, "seconds": 1.0} | figures
