"""What is asked of a cluster: keys cluster.*, their checks, and the parameters submitit gets."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import field_validator, model_validator

from launch.jobs.inherited import forget_lines
from pipeline.config import ConfigError, layers, validate
from pipeline.config.base import Section, Text, key
from pipeline.config.keys import merge
from pipeline.config.layer_folders import place_of
from pipeline.config.layers import layer_path
from pipeline.config.words import read_tree, spread, well_shaped
from pipeline.contracts import InputError

STARTUP_S = 60  # Python, torch and the data set are there before a signal may come; Slurm sends it up to 60 s early
PLAIN = re.compile(r"[\w.,+@:/-]*")
SIZE = re.compile(r"\d+[KMGT]?")
KEYS = ("partition", "account", "qos", "constraint", "exclude", "comment", "mem")  # that sbatch knows by these names
OWN = ("cluster=", "cluster.", "follow=", "entry=", "submit.")


class ClusterConfig(Section):
    """Keys cluster.*. A file configs/cluster/<site>.yaml holds a site's; cluster=<site> reads it."""

    name: Literal["local", "slurm", "debug"] = key("local", "where jobs run", affects="place")
    nodes: int = key(1, "machines of a run", affects="speed", ge=1)
    gpus_per_node: int | None = key(
        None, "GPUs of each machine; default what there is (local), none asked for", affects="speed", ge=0
    )
    tasks_per_node: int | None = key(
        None, "processes (ranks) on each machine; default one per GPU", affects="speed", ge=1
    )
    cpus_per_task: int | None = key(None, "CPU cores of each process", affects="speed", ge=1)
    partition: Text | None = key(None, "Slurm's partition", affects="place")
    time: int = key(1440, "minutes a job may run before it is stopped and requeued", affects="speed", ge=1)
    account: Text | None = key(None, "Slurm's account", affects="place")
    qos: Text | None = key(None, "Slurm's quality of service", affects="speed")
    constraint: Text | None = key(None, "features that nodes must have, such as a100|h100", affects="place")
    exclude: Text | None = key(None, "nodes not to use", affects="place")
    comment: Text | None = key(None, "Slurm's comment", affects="log")
    mem: Text | None = key(None, "memory of each machine, such as 64G", affects="speed")
    setup: tuple[str, ...] = key((), "shell lines run before the job", affects="place")
    extra: dict[str, Text | bool | int | float] = key(
        {}, "further keys of sbatch, by their long names; true: a flag", affects="place"
    )
    signal_delay: int = key(
        90, "seconds between the signal that asks for a checkpoint and the end", affects="speed", ge=1
    )
    retries: int = key(
        0, "starts after a failure (not after pre-emption or a time limit: those are free)", affects="speed", ge=0
    )
    parallel: int = key(0, "runs of an array at once, 0 = all (local: one)", affects="speed", ge=0)
    pack: int = key(1, "runs that share a GPU", affects="speed", ge=1)
    patience: int = key(10, "minutes that a Slurm which does not answer is waited for", affects="speed", ge=1)
    check_folder: bool = key(
        True, "refuse a run folder on a disk of this machine when Slurm has other machines", affects="place"
    )

    @field_validator("mem")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        if value is not None and not SIZE.fullmatch(value):
            raise ValueError(f"{value!r} is no size such as 64G (K, M, G or T; MiB without)")
        return value

    @field_validator("partition", "account", "qos")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and not PLAIN.fullmatch(value):
            raise ValueError(f"{value!r} holds characters that no such name has")
        return value

    @field_validator("constraint", "exclude", "comment")
    @classmethod
    def _one_line(cls, value: str | None) -> str | None:
        # sbatch reads comment lines: what follows a line break would be a command.
        if value is not None and not value.isprintable():
            raise ValueError(f"{value!r} holds a line break or another control character")
        return value

    @field_validator("extra")
    @classmethod
    def _long_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        flags = {"true": True, "True": True, "false": False, "False": False}
        value = {name: flags.get(item, item) if isinstance(item, str) else item for name, item in value.items()}
        for name, item in value.items():
            if name == "wrap" or not re.fullmatch(r"[a-z][a-z0-9-]*", name) or not str(item).isprintable():
                raise ValueError(f"{name!r}={item!r} is no key of sbatch")
        return value

    @model_validator(mode="after")
    def _combinations(self) -> "ClusterConfig":
        if self.name != "slurm" and self.nodes > 1:
            raise ValueError(f"cluster={self.name} has one machine: nodes={self.nodes} needs cluster=slurm")
        if self.name == "debug" and self.ranks > 1:
            raise ValueError("cluster=debug runs one process: leave tasks_per_node")
        if self.pack > 1 and self.ranks > 1:
            raise ValueError(f"pack={self.pack} is for runs of one process, not of {self.ranks}")
        if self.name != "debug" and self.time * 60 < self.signal_delay + STARTUP_S:
            raise ValueError(
                f"time={self.time} min is too short for signal_delay={self.signal_delay} s: the signal would come "
                f"before the run has started; {(self.signal_delay + STARTUP_S + 59) // 60} min is the least"
            )
        return self

    @property
    def given(self) -> tuple[str, ...]:
        """Keys that the batch script says."""
        return tuple(name for name in KEYS if getattr(self, name) is not None)

    @property
    def tasks(self) -> int:
        """Processes on each machine."""
        return self.tasks_per_node or max(1, self.gpus_per_node or 0)

    @property
    def ranks(self) -> int:
        """Processes of one run."""
        return self.nodes * self.tasks


def own_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words for the launcher, words for the entry point)."""
    return [w for w in words if w.startswith(OWN)], [w for w in words if not w.startswith(OWN)]


def with_site(given: Mapping[str, Any]) -> dict[str, Any]:
    """cluster.* as given, on top of configs/cluster/<name>.yaml. Raises ConfigError that names the known files, or what
    is wrong in this one."""
    path = layer_path("cluster", str(given.get("name", "local")))
    where, problems = place_of(layers.CONFIGS, path), list[str]()
    site = well_shaped(ClusterConfig, spread(read_tree(path), {}, where, problems), problems, where=where)
    if not problems and "name" not in site:
        problems = [f"{where} lacks name: local, slurm or debug"]
    if not problems:
        try:
            validate(ClusterConfig, site)
        except ConfigError as error:
            problems = [f"{where}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return merge(site, {k: v for k, v in given.items() if k != "name"})


def visible_gpus() -> tuple[int, ...]:
    """Numbers of this machine's devices that a local job may use."""
    import torch

    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return tuple(int(n) for n in said.split(",") if n.strip().isdigit())
    return tuple(range(torch.cuda.device_count()))


def submitit_parameters(
    cluster: ClusterConfig,
    name: str,
    teardown: Sequence[str] = (),
    after: Sequence[str] = (),
    array: bool = False,
) -> dict[str, Any]:
    """Parameters of submitit's AutoExecutor. name: the job's; teardown: shell lines after the run (Slurm).

    array: it is one of several; after: Slurm's jobs, or tasks of arrays, that must end well first; where one does not,
    Slurm cancels this one.
    """
    common: dict[str, Any] = {"name": re.sub(r"[^\w.+/-]", "_", name), "timeout_min": cluster.time}
    common |= {"tasks_per_node": cluster.tasks, "stderr_to_stdout": True}
    if cluster.name != "slurm":
        return common | local_parameters(cluster)
    slurm: dict[str, Any] = {f"slurm_{k}": getattr(cluster, k) for k in KEYS}
    further = {"requeue": True, **cluster.extra, **dependency(cluster, after)}
    slurm |= {
        "slurm_signal_delay_s": cluster.signal_delay,
        "slurm_setup": [*forget_lines(array, cluster.mem is not None), *cluster.setup] or None,
        "slurm_teardown": list(teardown) or None,
        "slurm_array_parallelism": cluster.parallel or 256,
        # A rank that dies takes the others with it: they would wait for it until the time limit.
        "slurm_srun_args": ["--kill-on-bad-exit=1"],
        "slurm_additional_parameters": {k: v for k, v in further.items() if v is not False},
    }
    return common | {"nodes": cluster.nodes, "cpus_per_task": cluster.cpus_per_task, **slurm} | asked_gpus(cluster)


def dependency(cluster: ClusterConfig, after: Sequence[str]) -> dict[str, str]:
    """Keys of sbatch that hold a job back until others have ended well; beside a dependency of cluster.extra."""
    if not after:
        return {}
    own = cluster.extra.get("dependency")
    wanted = ["afterok:" + ":".join(after), *([str(own)] if own else [])]
    return {"dependency": ",".join(wanted), "kill-on-invalid-dep": "yes"}


def asked_gpus(cluster: ClusterConfig) -> dict[str, Any]:
    """gpus_per_node where any are asked for."""
    return {"gpus_per_node": cluster.gpus_per_node} if cluster.gpus_per_node else {}


def local_parameters(cluster: ClusterConfig) -> dict[str, Any]:
    """What submitit's local executor needs besides; it hides every device that is not named."""
    if cluster.name == "debug":
        return {}
    free = visible_gpus()
    wanted = cluster.tasks if cluster.gpus_per_node is None else cluster.gpus_per_node
    count = min(wanted, len(free)) if cluster.gpus_per_node is None else wanted
    if count > len(free):
        raise InputError(f"cluster.gpus_per_node={count}, but there are {len(free)} CUDA devices here")
    return {"gpus_per_node": count, "local_setup": list(cluster.setup) or None}
