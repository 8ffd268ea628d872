"""Run folders as training leaves them, with figures of one's choice."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.builders.names import train_config


def make_run(folder: Path, *words: str, last: float | None = None, best: float | None = None, **more: Any) -> Path:
    """`folder` with config.yaml of a run of `words`, and summary.json unless last is None. best: default last."""
    config = train_config(words)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))))
    if last is not None:
        summary = {"epochs": config.optim.epochs, "top1_last": last, "top1_best": last if best is None else best}
        record = summary | {"select_on": config.select_on, "seed": config.seed} | more
        (folder / "summary.json").write_text(json.dumps(record))
    return folder
