"""What is wrong between a run and the cluster that it is for; asked before anything is sent."""

import re
import socket
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import SlurmExecutor

from launch.jobs import slurm_state
from launch.jobs.cluster import ClusterConfig
from launch.jobs.entry_points import ENTRIES
from pipeline.contracts import InputError
from pipeline.utils.suggest import hint

SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cephfs", "fuse.ceph", "fuse.juicefs", "9p", "wekafs",
          "glusterfs", "fuse.glusterfs", "orangefs", "cifs", "smb3", "afs", "panfs", "virtiofs"}  # fmt: skip


def cluster_problems(cluster: ClusterConfig, entry: str, config: Any) -> list[str]:
    """What is wrong between a run and the cluster it is for."""
    problems = []
    if cluster.ranks > 1 and not ENTRIES[entry].several_ranks:
        problems.append(f"entry={entry} is one process; the cluster's keys ask for {cluster.ranks}")
    batch = getattr(getattr(config, "data", None), "batch_size", None)
    if batch is not None and batch < cluster.ranks:
        problems.append(
            f"data.batch_size={batch} is smaller than cluster.nodes={cluster.nodes} x {cluster.tasks} processes each"
        )
    if cluster.name == "slurm" and cluster.partition is not None and SlurmExecutor.affinity() > 0:
        told = slurm_state.call("sinfo", "-h", "-o", "%R")
        known = sorted(set(told.stdout.split()))
        unknown = [p for p in cluster.partition.split(",") if known and p not in known]
        problems += [f"unknown cluster.partition {p!r}{hint(p, known)} (known: {', '.join(known)})" for p in unknown]
    return problems


def check_folder(cluster: ClusterConfig, folder: Path) -> None:
    """Refuses a folder that Slurm would read otherwise, or that other machines do not see. Raises InputError."""
    if not re.fullmatch(r"[\w./+=,@~-]+", str(folder)):
        raise InputError(
            f"{str(folder)!r} holds characters that shells or Slurm interpret: choose run.dir and run.name"
        )
    if cluster.name != "slurm" or not cluster.check_folder:
        return
    others = (
        set(slurm_state.call("sinfo", "-h", "-N", "-o", "%n").stdout.split()) if SlurmExecutor.affinity() > 0 else set()
    )
    kind = filesystem(folder)
    if others - {socket.gethostname().split(".")[0], socket.gethostname()} and kind not in SHARED:
        raise InputError(
            f"{folder} lies on a {kind} disk of this machine, which the nodes do not see: choose run.dir on a shared "
            "file system (cluster.check_folder=false if it is shared all the same)"
        )


def filesystem(folder: Path) -> str:
    """Type of the file system that holds `folder`."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    holders = [(len(row[1]), row[2]) for row in rows if folder.is_relative_to(row[1])]
    return max(holders)[1] if holders else "unknown"
