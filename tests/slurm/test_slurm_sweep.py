"""A sweep on a real Slurm: a teacher, then an array of six students that wait for it, then one table."""

from collections.abc import Iterator
from pathlib import Path

import cli
import mini_cifar
import pytest
from slurm_daemons import Slurm, running

from launch import sweep
from launch.jobs.submission_record import find_submissions

pytestmark = pytest.mark.slurm

SWEEP = """
title: Six students
axes:
  couple: [{teacher.model: resnet14, student.model: resnet8}]
  method: [kd, dkd, at]
seeds: 2
teachers: train
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running(tmp_path_factory.mktemp("slurm")) as daemons:
        yield daemons


def test_an_array_of_six_after_its_teacher_ends_as_a_table(
    slurm: Slurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = mini_cifar.write(tmp_path / "data", train=32, test=10)
    (tmp_path / "six.yaml").write_text(SWEEP)
    own = [
        f"sweep={tmp_path}/six.yaml",
        "cluster=slurm",
        "cluster.partition=low",
        "cluster.parallel=2",
        "cluster.time=10",
    ]
    keys = ["dataset=cifar100", f"data.root={root}", "data.batch_size=16", "optim.epochs=1", "runtime.threads=1"]
    argv = [*own, *keys, f"run.dir={tmp_path}/runs", "log.tensorboard=false", "sweep.pictures=null"]
    code, out, err = cli.call(sweep, argv, capsys)
    assert code == 0 and "7 runs (1 teachers, 6 students): 7 to do" in out and "scancel" in out, err
    sent = find_submissions([tmp_path / "runs"])
    assert len({one.job_id.partition("_")[0] for one in sent if one.job_id}) == 2  # the teacher, and one array
    code, out, err = cli.call(sweep, [*argv, "follow=true"], capsys)  # the same command again only looks on
    assert code == 0 and "to do" not in out and out.count(" done ") >= 6, err + out
    table = (tmp_path / "runs/six/table.md").read_text()
    assert table in out and all(f"| {method} |" in table for method in ("kd", "dkd", "at", "vanilla"))
    assert len(find_submissions([tmp_path / "runs"])) == 7
