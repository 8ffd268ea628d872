"""A run is sent from inside a task of an array on a real Slurm: it is a job of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import mini_cifar
import pytest
from slurm_daemons import Slurm, command, running, until
from test_resume import words

from launch.jobs import slurm_state
from launch.jobs.submission_record import FILE, read_submission

pytestmark = pytest.mark.slurm
SUBMIT = Path(__file__).resolve().parents[2] / "launch" / "submit.py"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running(tmp_path_factory.mktemp("slurm")) as daemons:
        yield daemons


def test_a_task_of_an_array_sends_a_run(slurm: Slurm, tmp_path: Path) -> None:
    """With --mem-per-cpu for the task and cluster.mem for the run; a failure starts the run again, not the task."""
    data = mini_cifar.write(tmp_path / "data")
    line = words(data, tmp_path / "runs", "inner", "optim.epochs=1", "run.limit_steps=2")
    asked = ["cluster=slurm", "cluster.partition=low", "cluster.time=10", "cluster.mem=500M", "cluster.retries=1"]
    log, outer = tmp_path / "outer.log", tmp_path / "outer.sh"
    inner = " ".join(f"'{word}'" for word in [sys.executable, str(SUBMIT), *asked, *line])
    outer.write_text(f"#!/bin/sh\necho started >> {tmp_path / 'starts'}\n{inner}\n")
    sent = ["sbatch", "--parsable", "--array=4", "--mem-per-cpu=100", "-p", "low", "-o", str(log), str(outer)]
    number = command(*sent).strip()
    folder = tmp_path / "runs" / "inner" / "job-1"
    # The record is written before Slurm has given a number, and then again.
    until(lambda: (folder / FILE).exists() and read_submission(folder)[0].job_id, f"the submission; {log}")
    [run] = read_submission(folder)
    until(lambda: run.state() not in slurm_state.OVER, f"the run's end; {log}")
    text = "".join(file.read_text() for file in run.log if file.exists())
    assert run.state() == "done", text + log.read_text()
    assert run.job_id is not None and run.job_id.isdigit() and run.job_id != number
    assert (tmp_path / "starts").read_text() == "started\n"
