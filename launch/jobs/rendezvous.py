"""Where the ranks of a job meet: what torchrun would set, out of Slurm's or the local launcher's variables."""

import os
import re
import socket
import time
from pathlib import Path

import submitit
from pydantic import ValidationError

from launch.jobs.processes import Process, this_process
from pipeline.config.base import Section
from pipeline.utils.atomic import write_json
from pipeline.utils.untrusted_files import Unreadable, read_object

PORTS = (10_000, 20_000)  # first, count: below those that systems give to clients
WAIT_S = 300


class Meeting(Section):
    """A port that rank 0 found free, and which start of the job it is of."""

    port: int
    restarts: int
    leader: Process


def torch_environment(folder: Path) -> dict[str, str]:
    """RANK, WORLD_SIZE and so on; {} for one process. folder: of the submission, seen by all ranks."""
    env = submitit.JobEnvironment()
    if env.num_tasks == 1:
        return {}
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    alone = env.num_nodes == 1
    file = folder / f"rendezvous-{env.job_id}.json"
    port = meet(file, env.global_rank, restarts) if alone else derived(env.raw_job_id, restarts)
    return {
        "RANK": str(env.global_rank),
        "WORLD_SIZE": str(env.num_tasks),
        "LOCAL_RANK": str(env.local_rank),
        "LOCAL_WORLD_SIZE": str(max(1, env.num_tasks // env.num_nodes)),
        "MASTER_ADDR": "127.0.0.1" if alone else env.hostnames[0],
        "MASTER_PORT": str(port),
    }


def derived(job_id: str, restarts: int) -> int:
    """Port for several machines: another one after each requeue, because the first start's store is stale."""
    number = int(re.sub(r"\D", "", job_id) or 0)
    return PORTS[0] + (number * 16 + restarts) % PORTS[1]


def meet(file: Path, rank: int, restarts: int) -> int:
    """Port on one machine, which several jobs may share: rank 0 takes a free one and says so in `file`.

    The local launcher does not count its starts: there, what rank 0 of an earlier start left is known by its death.
    """
    if rank == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            meeting = Meeting(port=probe.getsockname()[1], restarts=restarts, leader=this_process())
        write_json(file, meeting.model_dump())
        return meeting.port
    counted = "SLURM_JOB_ID" in os.environ
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        found = read(file)
        if found is not None and found.restarts == restarts and (counted or found.leader.alive()):
            return found.port
        time.sleep(0.05)
    raise RuntimeError(f"rank 0 did not start within {WAIT_S} s ({file})")


def read(file: Path) -> Meeting | None:
    """What stands in `file`, None while there is nothing."""
    try:
        return Meeting.model_validate(read_object(file))
    except (Unreadable, ValidationError):
        return None
