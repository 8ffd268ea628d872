"""A submission from inside a job: nothing of that job reaches the new one."""

import os
from pathlib import Path

import cli
import pytest

from launch import submit
from launch.jobs import slurm_state
from launch.jobs.cluster import ClusterConfig

# What Slurm, MPI and torchrun set in the task of an array, and what a site or a job may have set beside it.
INHERITED = {
    **{"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_MEM_PER_CPU": "100"},
    **{"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_EXPORT_ENV": "NONE", "SLURM_RESTART_COUNT": "3"},
    **{"SBATCH_MEM_PER_CPU": "100", "SBATCH_PARTITION": "other", "SRUN_CPUS_PER_TASK": "3", "SLURMD_NODENAME": "n"},
    **{"PMI_RANK": "0", "PMI2_FD": "1", "PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "SQUEUE_FORMAT": "%i"},
    **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "n", "MASTER_PORT": "1"},
    **{"TORCHELASTIC_RUN_ID": "x", "SUBMITIT_EXECUTOR": "slurm", "CUDA_VISIBLE_DEVICES": "3"},
}
STAYS = {"SLURM_CONF": "/etc/x.conf", "SLURM_CONF_SERVER": "host:1", "SLURM_JWT": "t", "OMP_NUM_THREADS": "1"}
FAKE = """#!/bin/sh
env > {out}/$(basename $0).env
case "$(basename $0)" in
  sbatch) cat "$1" > {out}/script; echo "Submitted batch job 77" ;;
  sinfo) echo low ;;
esac
"""


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where commands of Slurm leave what they were given; this process is a rank of a task of an array."""
    out = tmp_path / "told"
    (out / "bin").mkdir(parents=True)
    for name in ("sbatch", "srun", "sinfo", "squeue", "sacct", "scontrol"):
        (out / "bin" / name).write_text(FAKE.format(out=out))
        (out / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{out / 'bin'}:{os.environ['PATH']}")
    for name, value in {**INHERITED, **STAYS}.items():
        monkeypatch.setenv(name, value)
    return out


def seen_by(file: Path) -> dict[str, str]:
    """An environment as a command saw it."""
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)


def words(tmp_path: Path, *more: str) -> list[str]:
    """A run of the embedded data set for a cluster."""
    return ["cluster=slurm", "dataset=synthetic", "model=resnet8", "run.name=x", f"run.dir={tmp_path / 'runs'}", *more]


def test_sbatch_sees_nothing_of_the_surrounding_job(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    code, _, err = cli.call(submit, words(tmp_path, "cluster.mem=1G", "cluster.check_folder=false"), capsys)
    assert code == 0, err
    for command in ("sbatch", "sinfo"):
        seen = seen_by(told / f"{command}.env")
        assert [name for name in INHERITED if name in seen and name != "CUDA_VISIBLE_DEVICES"] == []
        assert {name: seen[name] for name in STAYS} == STAYS
    assert "CUDA_VISIBLE_DEVICES" not in seen_by(told / "sbatch.env")
    assert dict(os.environ) == before
    script = (told / "script").read_text()
    assert "unset SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID" in script and "SLURM_MEM_PER_CPU" in script
    assert script.index("unset") < script.index("srun")


def test_scripts_that_people_send_themselves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, script, err = cli.call(submit, words(tmp_path, "submit.dry=true"), capsys)
    assert code == 0, err
    assert "unset SLURM_ARRAY_JOB_ID" in script and "SLURM_MEM_PER_CPU" not in script


def test_an_array_keeps_its_own_numbers(told: Path, tmp_path: Path) -> None:
    runs = [[*words(tmp_path)[1:3], f"run.name={n}", f"run.dir={tmp_path / 'runs'}"] for n in "ab"]
    submit.submit_runs(ClusterConfig(name="slurm", check_folder=False), runs, tmp_path / "job")
    script = (told / "script").read_text()
    assert "#SBATCH --array=0-1" in script and "unset" not in script
    assert "SLURM_ARRAY_JOB_ID" not in seen_by(told / "sbatch.env")


def test_defaults_of_a_shell_stay_outside_jobs(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SBATCH_ACCOUNT in somebody's profile counts, unless cluster.account says otherwise: sbatch would prefer it."""
    for name in INHERITED:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    given = words(tmp_path, "cluster.partition=low", "cluster.check_folder=false")
    code, _, err = cli.call(submit, given, capsys)
    assert code == 0, err
    seen = seen_by(told / "sbatch.env")
    assert seen["SBATCH_ACCOUNT"] == "mine" and "SBATCH_PARTITION" not in seen


@pytest.mark.slow
def test_local_jobs_are_no_ranks_of_the_job_around_them(told: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    cluster = ClusterConfig(name="local", setup=(f"env > {environment}",))
    run = [*words(tmp_path)[1:], "optim.epochs=1", "runtime.device=cpu", "run.limit_steps=1"]
    [job] = submit.submit_runs(cluster, [run], tmp_path / "job")
    assert job.wait() == "done", job.tail()
    seen = seen_by(environment)
    assert [
        name for name in INHERITED if name in seen and name not in ("CUDA_VISIBLE_DEVICES", "SUBMITIT_EXECUTOR")
    ] == []
    assert seen["SUBMITIT_EXECUTOR"] == "local"


def test_squeue_is_asked_in_our_own_format(told: Path) -> None:
    slurm_state.look("77")
    assert "SQUEUE_FORMAT" not in seen_by(told / "squeue.env")
    assert seen_by(told / "squeue.env")["SLURM_CONF"] == "/etc/x.conf"
