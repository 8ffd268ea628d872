"""What was measured: as one JSON object, and as tables for people."""

import contextlib
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.contracts import InputError
from pipeline.engine.distributed.parallel import World
from pipeline.measure.decode import MEANINGS
from pipeline.measure.keys import PARTS, BenchmarkConfig
from pipeline.measure.rounds import SPEED
from pipeline.run_folder.folder import environment
from pipeline.utils.atomic import write_json

PACKAGES = ("pillow", "simplejpeg", "numba", "opencv-python-headless", "opencv-python")
STDOUT = "-"
WIDTH = 120  # characters
Row = Mapping[str, Any]
PAIRED = {"ratio": "ratio", "by rounds": "paired_ratio", "by core": "core_ratio"}
SHARES = {"mfu", "data_wait", "copy_share", "launch_share", "share"}
BILLIONS = {"flops_per_second", "bytes_per_second"}
THREE_DIGITS = {"border_ratio", "paired_ratio", "core_ratio"}


def frame(config: BenchmarkConfig, world: World, in_use: str) -> dict[str, Any]:
    """The report before anything is measured: what, on what, with what. in_use: the loader of the run."""
    seen = environment()
    versions = {"python": seen["python"], **seen["versions"]}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "what": config.what,
        "dataset": config.dataset,
        "image_size": config.data.image_size,
        "batch_size": config.data.batch_size,
        "workers": config.data.workers,
        "loader": in_use,
        "rounds": config.rounds,
        "steps": config.batches,
        "loaders": {},
        "unavailable": {},
        "yardstick": None,
        "decode_limit": None,
        "step": None,
        "parts": None,
        "variants": None,
        "train": None,
        "absent": {},
        "bottleneck": "",
        "machine": {
            "device": world.device.type,
            "tf32": world.tf32,
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            **{name: seen[name] for name in ("cpu_count", "cpu_threads", "gpus", "platform")},
        },
        "versions": versions,
    }


def _cpu_name() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def check_writable(path: str | None, key: str) -> None:
    """Raises InputError, before anything is measured, when `path` cannot be written."""
    if path is None or path == STDOUT:
        return
    folder = Path(path).absolute().parent
    reason = None
    if not folder.is_dir():
        reason = f"no folder {folder}"
    elif Path(path).is_dir():
        reason = "it is a folder"
    elif not os.access(folder, os.W_OK):
        reason = f"no permission to write in {folder}"
    if reason:
        raise InputError(f"{key}={path}: {reason}")


def write_report(report: Mapping[str, Any], path: str) -> None:
    """The report as a file that is whole or not there. Raises InputError."""
    try:
        write_json(Path(path), report)
    except OSError as error:
        raise InputError(f"json={path}: {error.strerror}") from None


def console_of(*, stderr: bool) -> Console:
    """Where people read; as wide as the tables where no terminal says its width."""
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=WIDTH)


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Tables of what was measured, then the sentence."""
    limit = report["decode_limit"]
    if limit:
        files = f"{limit['files']} files of {limit['mean_bytes'] / 1000:.0f} kB"
        rows = {f"{MEANINGS[row['decoder']]}, {row['processes']} proc.": row for row in limit["rows"].values()}
        _print(
            console, f"JPEG decoding alone ({files})", rows, {"MB/s": "megabytes_per_second", "per core": "per_core"}
        )
    if report["yardstick"]:
        rows = report["loaders"] | {report["yardstick"]["name"]: report["yardstick"]}
        columns = {"ratio": "ratio", "per core": "per_core", "at borders": "border_ratio"}
        _print(console, "Loaders: normalised batches on the device", rows, columns, report["unavailable"])
    if report["step"]:
        print_step(report, console)
    if report["train"] and "train" in PARTS[report["what"]]:
        columns = {**PAIRED, "waits for data": "data_wait"}
        _print(console, "The whole training", report["train"], columns, report["absent"])
    console.print(report["bottleneck"], markup=False, soft_wrap=True)


def print_step(report: Mapping[str, Any], console: Console) -> None:
    """The rows, what they make of the device, and the parts."""
    columns = {**PAIRED, "ms/step": "ms_per_step", "per core": "per_core", "peak MiB": "peak_memory_mib"}
    _print(console, "The step, on batches that lie ready (ratio to the bare loop)", report["step"], columns)
    limits = {
        **{"GFLOP/s": "flops_per_second", "MFU": "mfu", "GB/s": "bytes_per_second", "of a copy": "copy_share"},
        **{"operations": "operations", "launching": "launch_share", "host reads": "host_reads"},
    }
    ceilings = (
        f"{report['peak_flops'] / 1e9:,.0f} GFLOP/s in products, {report['copy_bandwidth'] / 1e9:.1f} GB/s in copies"
    )
    _print(console, f"Against the device's limits: {ceilings}", report["step"], limits, speed=False)
    if report["parts"]:
        columns = {"ms": "ms", "share": "share", "ms of processor": "core_ms"}
        _print(console, "Parts of a step of training", report["parts"], columns, speed=False)


def _print(
    console: Console,
    title: str,
    rows: Mapping[str, Row],
    columns: Mapping[str, str],
    absent: Mapping[str, str] = {},
    *,
    speed: bool = True,
) -> None:
    """columns: heading -> key; a column without figures is left out. speed: images/s and their range come first."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    shown = {head: name for head, name in columns.items() if any(row.get(name) is not None for row in rows.values())}
    for head in (*(("images/s", "least to most") if speed else ()), *shown):
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in rows.items():
        first = [_plain(row[SPEED]), " to ".join(map(_plain, row["spread"]))] if speed else []
        table.add_row(name, *first, *(_cell(row.get(key), key) for key in shown.values()))
    for name in absent:
        table.add_row(name, "-", "-", *["-" for _ in shown], style="dim")
    console.print(table)
    for name, reason in absent.items():
        console.print(f"  {name}: {reason}", markup=False, soft_wrap=True, style="dim")


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(value: float | None, key: str) -> str:
    if value is None:
        return "-"
    if key in SHARES:
        return f"{100 * value:.1f} %"
    if key in BILLIONS:
        return _plain(value / 1e9)
    return f"x {value:.2f}" if key == "ratio" else f"{value:.3f}" if key in THREE_DIGITS else _plain(value)
