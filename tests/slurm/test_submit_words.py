"""What launch/submit.py accepts and refuses, without Slurm; how deaths are told apart."""

import os
import subprocess
import sys
from pathlib import Path

import cli
import mini_cifar
import pytest

from launch import submit
from launch.jobs import checks, rendezvous, slurm_state, submission
from launch.jobs.cluster import ClusterConfig
from launch.jobs.slurm_state import Seen
from launch.jobs.submission_record import find_submissions

RUN = ["dataset=synthetic", "model=resnet8"]


def test_all_problems_of_cluster_and_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "cluster=local",
        "cluster.nods=2",
        "cluster.time=0",
        "dataset=synthetic",
        "model=resnet9000",
        "optim.lrr=1",
    ]
    code, _, err = cli.call(submit, words, capsys)
    assert code == 2
    for part in ("cluster.nods", "cluster.time=0", "resnet9000", "optim.lrr"):
        assert part in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["cluster=nowhere"], "unknown cluster 'nowhere'"),
        (["cluster=slurm", "cluster.time=2"], "time=2 min is too short for signal_delay=90 s"),
        (["cluster=slurm", "cluster.nodes=2", "cluster.gpus_per_node=8", "data.batch_size=8"], "=8 is smaller"),
        (["cluster=local", "cluster.nodes=2"], "one machine"),
        (["cluster=slurm", 'cluster.comment="a\\ntouch owned"'], "line break"),
        (["cluster=slurm", "cluster.partition=a;touch owned"], "characters that no such name has"),
        (["cluster=slurm", "cluster.extra.x_y=1"], "no key of sbatch"),
        (["cluster=slurm", "cluster.extra.wrap=id"], "no key of sbatch"),
        (["cluster=slurm", "cluster.mem=-1G"], "no size such as 64G"),
        (["cluster=slurm", "run.name=$(touch owned)"], "shells or Slurm interpret"),
        (["cluster=slurm", "run.name=a;touch owned"], "shells or Slurm interpret"),
        (["cluster=slurm", "run.name=a%j"], "shells or Slurm interpret"),
        (["cluster=slurm", "entry=benchmark", "cluster.tasks_per_node=2"], "one process"),
    ],
)  # fmt: skip
def test_refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        code, _, err = cli.call(submit, [*RUN, *words, "submit.dry=true"], capsys)
    assert code == 2 and text in err, err
    assert list(tmp_path.iterdir()) == []


def test_dry_prints_the_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["cluster=slurm", "cluster.nodes=2", "cluster.gpus_per_node=8", "cluster.constraint=a|b", "cluster.mem=64G"]
    code, out, err = cli.call(submit, [*RUN, *words, f"run.dir={tmp_path}", "submit.dry=true"], capsys)
    assert code == 0, err
    for line in (
        "--nodes=2",
        "--ntasks-per-node=8",
        "--gpus-per-node=8",
        "--constraint='a|b'",
        "--mem=64G",
        "--requeue",
    ):
        assert f"#SBATCH {line}" in out
    assert "--signal=USR2@90" in out and list(tmp_path.iterdir()) == []
    checked = subprocess.run(["bash", "-n"], input=out, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_a_run_on_this_machine_and_a_failed_one(tmp_path: Path) -> None:
    """cluster=local with follow: the log is printed; a run that fails gives its reason and the log's end."""
    data = mini_cifar.write(tmp_path / "data")
    script = Path(submit.__file__)
    common = ["cluster=local", "follow=true", "dataset=cifar100", f"run.dir={tmp_path}", "model=resnet8",
              "run.limit_steps=2", "runtime.device=cpu", "log.tensorboard=false"]  # fmt: skip

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script), *common, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    done = call(f"data.root={data}", "run.name=good")
    assert done.returncode == 0 and "epoch" in done.stdout, done.stdout + done.stderr
    assert (tmp_path / "good" / "summary.json").exists() and (tmp_path / "good/job-1/code/pipeline/train.py").exists()
    bad = call(f"data.root={tmp_path / 'absent'}", "run.name=bad")
    assert bad.returncode == 1 and "failed: exit code 2" in bad.stderr and "absent" in bad.stderr
    assert [run.state() for run in find_submissions([tmp_path])] == ["done", "failed"]


@pytest.mark.parametrize(
    ("seen", "log", "text"),
    [
        (Seen("NODE_FAIL"), "", "node failure"),
        (Seen("OUT_OF_MEMORY"), "", "on the host"),
        (Seen("FAILED", "1:0"), "torch.OutOfMemoryError: CUDA out of memory. Tried", "on the GPU"),
        (
            Seen("FAILED", "1:0"),
            "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error",
            "data worker",
        ),
        (Seen("FAILED", "1:0"), "slurmstepd: error: Detected 1 oom_kill event", "on the host"),
        (Seen("FAILED", "137:0"), "", "SIGKILL"),
        (Seen("FAILED", "140:0"), "", "before Python had started"),
        (Seen("CANCELLED", reason="DependencyNeverSatisfied"), "", "waits for failed"),
        (Seen("TIMEOUT", "0:15"), "", "time limit"),
        (Seen(""), "", "no longer knows"),
        (Seen("COMPLETED"), "", "without a result"),
    ],
)
def test_deaths_have_reasons_of_their_own(seen: Seen, log: str, text: str) -> None:
    assert text in slurm_state.explain(None, seen, log)


def test_states() -> None:
    failed, done = {"outcome": "failed"}, {"outcome": "done"}
    assert slurm_state.judge(done, Seen("COMPLETING")) == "done"
    assert slurm_state.judge(failed, Seen("PENDING")) == "pending"  # is started again
    assert slurm_state.judge(failed, Seen("FAILED")) == "failed"
    assert slurm_state.judge(None, Seen("")) == "lost" and slurm_state.judge(None, None) == "unknown"
    assert slurm_state.judge(None, Seen("COMPLETED")) == "failed"


def test_each_start_has_a_port_of_its_own() -> None:
    ports = [rendezvous.derived(job_id, start) for job_id in ("4711", "4712") for start in range(3)]
    assert len(set(ports)) == 6 and all(10_000 <= port < 30_000 for port in ports)


def test_a_folder_of_this_machine_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = subprocess.CompletedProcess([], 0, "node1\nnode2\n", "")
    monkeypatch.setattr(slurm_state, "call", lambda *words: answer)
    monkeypatch.setattr(checks.SlurmExecutor, "affinity", lambda: 2)
    monkeypatch.setattr(checks, "filesystem", lambda folder: "tmpfs")
    with pytest.raises(checks.InputError, match="tmpfs disk of this machine"):
        checks.check_folder(ClusterConfig(name="slurm"), tmp_path)
    monkeypatch.setattr(checks, "filesystem", lambda folder: "lustre")
    checks.check_folder(ClusterConfig(name="slurm"), tmp_path)


def test_a_slurm_without_controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = subprocess.CompletedProcess([], 1, "", "slurm_load_partitions: Unable to contact slurm controller")
    monkeypatch.setattr(slurm_state, "call", lambda *words: answer)
    monkeypatch.setattr(submission.SlurmExecutor, "affinity", lambda: 2)
    cluster = ClusterConfig(name="slurm", check_folder=False)
    with pytest.raises(submission.InputError, match="Unable to contact slurm controller"):
        submission.submit_runs(cluster, [RUN], tmp_path / "job")
    assert not (tmp_path / "job").exists()
