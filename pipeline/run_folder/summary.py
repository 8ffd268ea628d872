"""What a run amounts to: last and best epoch, reported apart."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from pipeline.config import TrainConfig
from pipeline.config.base import Section
from pipeline.run_folder.spread import mean_std, spread_text

Record = dict[str, Any]


class Summary(Section):
    """What a table needs of summary.json. Accuracies in per cent."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)
    epochs: int = Field(ge=1)
    steps: int | None = Field(default=None, ge=0)
    top1_last: float = Field(ge=0, le=100)
    top1_best: float = Field(ge=0, le=100)
    select_on: str


def best_record(records: Sequence[Record], select_on: str) -> Record:
    """The evaluated record of the highest top-1 on `select_on`, the earliest of equals."""
    evaluated = [r for r in records if r[f"{select_on}_top1"] is not None]
    return max(evaluated, key=lambda r: r[f"{select_on}_top1"])


def summarise(
    config: TrainConfig,
    records: list[Record],
    *,
    graph: str,
    images_per_second: float,
    wall_seconds: float,
    parameters: int,
    added: int,
    kept: int,
    resumed: int,
    steps: int,
    replaced_images: int = 0,
    tf32: str = "off",
) -> dict[str, Any]:
    """The content of summary.json. Accuracies in per cent on the test set; best_epoch counts from 1.

    added: trainable numbers that the method adds in training; kept: numbers of it that inference needs (SimKD).
    replaced_images: images that could not be read, listed in replaced.jsonl. graph: what the steps ran as. tf32: off,
    convolutions or on (these and matrix products), as it was in force.
    """
    last, best = records[-1], best_record(records, config.select_on)
    return {
        "dataset": config.dataset,
        "pair": config.pair,
        "teacher": config.teacher.model,
        "student": config.student.model,
        "method": config.method,
        "variant": config.variant,
        "recipe": config.recipe,
        "seed": config.seed,
        "epochs": last["epoch"],
        "steps": steps,
        "top1_last": last["test_top1"],
        "top5_last": last["test_top5"],
        "top1_best": best["test_top1"],
        "top5_best": best["test_top5"],
        "best_epoch": best["epoch"],
        "select_on": config.select_on,
        "graph": graph,
        "images_per_second": images_per_second,
        "wall_seconds": wall_seconds,
        "parameters": parameters,
        "parameters_added": added,
        "parameters_kept": kept,
        "resumed": resumed,
        "replaced_images": replaced_images,
        "tf32": tf32,
    }


def is_summary(content: Any) -> bool:
    """Whether `content` holds what is read of a finished run."""
    numbers = ("top1_last", "top1_best", "best_epoch", "images_per_second", "seed", "epochs")
    if not isinstance(content, dict):
        return False
    known = all(isinstance(content.get(k), int | float) and not isinstance(content[k], bool) for k in numbers)
    return known and content.get("select_on") in ("test", "val") and isinstance(content.get("replaced_images", 0), int)


def speed_text(images_per_second: float) -> str:
    """'123 images/s'; '- images/s' for 0, of so few steps that none was measured."""
    return f"{images_per_second:.0f} images/s" if images_per_second else "- images/s"


def finish_text(summary: dict[str, Any], folder: Path) -> str:
    """The last line of a run."""
    chosen = (
        "chosen on the test set, as the field does" if summary["select_on"] == "test" else "chosen on held-out images"
    )
    replaced = summary.get("replaced_images", 0)  # older runs do not say
    shown = f"{replaced} images replaced (replaced.jsonl); " if replaced else ""
    return (
        f"done: top1 last {summary['top1_last']:.2f}, best {summary['top1_best']:.2f} (epoch {summary['best_epoch']}, "
        f"{chosen}); {shown}{speed_text(summary['images_per_second'])}; files in {folder}"
    )


def seeds_text(summaries: list[dict[str, Any]]) -> str:
    """The line that closes seeds=N."""
    last, best = (spread_text(mean_std(s[key] for s in summaries), sign="+-") for key in ("top1_last", "top1_best"))
    seeds = ", ".join(str(s["seed"]) for s in summaries)
    return f"seeds {seeds}: top1 last {last}, best {best} (mean +- sample std of {len(summaries)} runs)"
