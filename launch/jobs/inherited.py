"""What a process has inherited from a job that it runs in, and what the jobs that it starts must not see of it.

Slurm hands the environment of sbatch on to the job: a job that is sent from inside another one would take itself for a
task of the other one's array, ask for its memory, or meet its ranks.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping

# Of the job: Slurm's answers and questions, the process managers of MPI, torchrun, submitit.
FAMILIES = (
    *("SLURM_", "SLURMD_", "SRUN_", "SALLOC_", "SBATCH_", "SQUEUE_", "SINFO_", "SACCT_", "SCONTROL_", "SCANCEL_"),
    *("PMI", "OMPI_", "PRTE_", "PALS_", "HYDRA_", "HYDI_", "MPI_LOCAL", "MPIR_"),
    *("I_MPI_HYDRA_", "I_MPI_PMI", "MV2_COMM_", "FLUX_"),
    *("TORCHELASTIC_", "SUBMITIT_"),
)
NAMES = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "NODE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}
# What finds Slurm: its configuration, cluster and credentials.
FINDS = {
    *("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_ROOT", "SLURM_HOME"),
    *("SLURM_SACK_SOCKET", "SLURM_SACK_JWKS", "SLURM_SACK_KEY"),
}
INSIDE = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_ARRAY_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID")
# People set these in their shells, as defaults of sbatch; in a job they are the job's.
DEFAULTS = {
    **{f"SBATCH_{name.upper()}": name for name in ("account", "partition", "qos", "constraint")},
    **dict.fromkeys(("SBATCH_CLUSTERS", "SBATCH_RESERVATION", "SBATCH_EXCLUSIVE"), ""),
}
DEVICES = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


def is_inside(environ: Mapping[str, str]) -> bool:
    """Whether this is a process of a Slurm job."""
    return any(name in environ for name in INSIDE)


def inherited(environ: Mapping[str, str], given: Collection[str] = ()) -> list[str]:
    """Names of what a new job must not see. given: keys cluster.* that are set, which no default may override."""
    inside = is_inside(environ)
    defaults = {name for name, key in DEFAULTS.items() if not inside and key not in given}
    return [
        name
        for name in environ
        if (name in NAMES or name.startswith(FAMILIES)) and name not in FINDS and name not in defaults
    ]


def cleaned(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without them."""
    environ = os.environ if environ is None else environ
    left_out = set(inherited(environ))
    return {name: value for name, value in environ.items() if name not in left_out}


@contextlib.contextmanager
def outside(given: Collection[str] = (), *, devices: bool = False) -> Iterator[None]:
    """Inside, this process's environment is that of one outside any job; then it is as it was.

    given: see `inherited`. devices: hide also which GPUs the surrounding job was given; the new one gets its own.
    """
    names = inherited(os.environ, given)
    if devices and is_inside(os.environ):
        names += [name for name in DEVICES if name in os.environ]
    kept = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(kept)


ARRAY = ("JOB_ID", "TASK_ID", "TASK_COUNT", "TASK_MAX", "TASK_MIN", "TASK_STEP")


def forget_lines(array: bool, memory: bool) -> list[str]:
    """Shell lines for a batch script that somebody may send from inside a job himself: it holds what only Slurm sets
    for a job of another kind. array: it is one; memory: it asks for memory by node."""
    names = [] if array else [f"SLURM_ARRAY_{name}" for name in ARRAY]
    names += ["SLURM_MEM_PER_CPU", "SLURM_MEM_PER_GPU"] if memory else []
    return [f"unset {' '.join(names)}"] if names else []
