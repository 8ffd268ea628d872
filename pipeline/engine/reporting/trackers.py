"""Where the figures of an epoch go besides metrics.jsonl: TensorBoard events, Weights & Biases."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from pipeline.config import LogConfig, TrainConfig
from pipeline.contracts import InputError

FIGURES = ("lr", "train_loss", "train_top1", "test_loss", "test_top1", "test_top5", "val_top1", "images_per_second")


class Tracker(Protocol):
    """Takes one metrics record after another."""

    def log(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by tag; terms as terms/<name>; what was not measured is left out."""
    found = {tag: record[tag] for tag in FIGURES if record.get(tag) is not None}
    return found | {f"terms/{name}": value for name, value in record["terms"].items()}


class TensorBoard:
    """Event files in the run folder; step = epoch, from 1."""

    def __init__(self, folder: Path, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step hides what an interrupted process wrote of epochs that are run again.
        self.writer = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def log(self, record: dict[str, Any]) -> None:
        for tag, value in scalars(record).items():
            self.writer.add_scalar(tag, value, record["epoch"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One W&B run per run folder, resumed with it."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        try:
            import wandb
        except ImportError:
            raise InputError("log.wandb=true needs the package wandb: pip install 'stillhouse[wandb]'") from None
        try:
            self.run = wandb.init(
                project=config.log.wandb_project,
                name=config.run.name,
                id=config.fingerprint()[:16],
                resume="allow",
                dir=str(folder),
                mode="offline" if config.log.wandb_offline else None,  # None: as WANDB_MODE says, or online
                config=config.model_dump(mode="json"),
            )
        except (wandb.errors.Error, ValueError) as error:  # no key, a key of another shape, no network
            reason = " ".join(str(error).split())
            raise InputError(
                f"log.wandb=true: {reason} (wandb login, or WANDB_API_KEY; log.wandb_offline=true sends nothing)"
            ) from None

    def log(self, record: dict[str, Any]) -> None:
        self.run.log(scalars(record), step=record["epoch"])

    def close(self) -> None:
        self.run.finish()


def log_to(trackers: Iterable[Tracker], record: dict[str, Any]) -> None:
    """A record to each. Raises OSError where a file cannot be written."""
    for tracker in trackers:
        tracker.log(record)


def open_trackers(log: LogConfig, folder: Path, config: TrainConfig, epochs_done: int) -> list[Tracker]:
    """The trackers that `log` asks for."""
    trackers: list[Tracker] = []
    if log.tensorboard:
        trackers.append(TensorBoard(folder, epochs_done))
    if log.wandb:
        trackers.append(WeightsAndBiases(folder, config))
    return trackers
