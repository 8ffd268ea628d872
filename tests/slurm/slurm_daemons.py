"""A Slurm of one machine for tests: munged, slurmctld and slurmd on loopback, with files and ports of their own."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ranks

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={run}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
JobRequeue=1
MinJobAge=300
KillWait=5
ReturnToService=2
StateSaveLocation={run}/ctld
SlurmdSpoolDir={run}/d
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd.log
SlurmctldPort={ctld}
SlurmdPort={d}
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def command(*words: str) -> str:
    """Output of a Slurm command; its complaint as AssertionError."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def until(what: Callable[[], object], text: str, seconds: float = 180) -> None:
    """Returns when `what` is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {text}"
        time.sleep(0.1)


class Slurm:
    """The daemons, in `folder`; close() stops just those."""

    def __init__(self, folder: Path) -> None:
        missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]
        assert not missing, f"{', '.join(missing)}: not installed; run setup/slurm.sh as root"
        self.folder = folder
        for name in ("ctld", "d"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        host = socket.gethostname().split(".")[0]
        self.ports = ports = [ranks.free_port() for _ in range(2)]
        self.conf = folder / "slurm.conf"
        self.conf.write_text(CONF.format(host=host, user=getpass.getuser(), run=folder, ctld=ports[0], d=ports[1]))
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf), "PATH": PATH}
        self.processes: list[subprocess.Popen[bytes]] = []
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed",
        )  # fmt: skip
        until((folder / "munge.socket").exists, "munged")
        self._start("slurmctld", "-D", "-c")
        self._start("slurmd", "-D")
        until(self._idle, f"the node; see {folder}/*.log")

    def _start(self, *words: str) -> None:
        with (self.folder / f"{words[0]}.out").open("wb") as out:
            self.processes.append(
                subprocess.Popen(words, env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            )

    def _idle(self) -> bool:
        asked = subprocess.run(["sinfo", "-h", "-o", "%T", "-p", "low"], env=self.environment, capture_output=True)
        return asked.stdout.strip() == b"idle"

    def close(self) -> None:
        """Ends the jobs, then the daemons."""
        for partition in ("low", "high"):
            subprocess.run(["scancel", "-p", partition], env=self.environment, capture_output=True)
        asked = ["squeue", "-h", "-t", "running,completing"]
        until(lambda: not subprocess.run(asked, env=self.environment, capture_output=True).stdout, "the jobs' end")
        for process in reversed(self.processes):
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """A Slurm in `folder` that this process's commands speak to."""
    with pytest.MonkeyPatch.context() as patch:
        daemons = Slurm(folder)
        patch.setenv("SLURM_CONF", str(daemons.conf))
        patch.setenv("PATH", PATH)
        patch.setenv("OMP_NUM_THREADS", "1")
        yield daemons
        daemons.close()


def start_now(job_id: str) -> None:
    """Slurm holds a requeued job for two minutes; this is sooner, but not at once.

    Credentials have times in whole seconds: a start in the second in which the one before was ended is taken for that
    one, and the job ends as FAILED, exit code 1, without a line in its log (slurmctld: "Job credential revoked").
    """
    until(lambda: "JobState=PENDING" in command("scontrol", "-o", "show", "job", job_id), f"job {job_id} pending")
    command("scontrol", "update", f"JobId={job_id}", "StartTime=now+3")
