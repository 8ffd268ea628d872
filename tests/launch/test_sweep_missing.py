"""What a sweep sends: all at first, what is missing later, nothing twice; teachers and caches only where needed."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cli
import pytest
from run_folders import make_run

from launch import sweep
from launch.jobs.cluster import ClusterConfig
from launch.jobs.processes import Process, this_process
from launch.jobs.submission_record import StoredRow, Submission, SubmissionRow, read_submission
from launch.sweeps import submit
from launch.sweeps.state import look

SWEEP = """
set: {dataset: synthetic, pair: resnet20-resnet8, optim.epochs: 1}
axes: {method: [kd, at], seed: [0, 1]}
teachers: train
"""
Sent = list[tuple[str, list[str], list[str]]]  # of one call: entry, names of its runs, what they wait for
Fake = Callable[..., list[SubmissionRow]]


def place(words: Sequence[str]) -> Path:
    """Folder of a run."""
    keys = dict(word.split("=", 1) for word in words)
    return Path(keys["run.dir"].strip('"')) / keys.get("run.name", "cache").strip('"')


def pretended(sent: Sent, launcher: Process | None = None) -> Fake:
    """A submit_runs that notes its calls; `launcher` (this process) seems to hold the runs back."""

    def submit_runs(
        cluster: ClusterConfig,
        commands: Sequence[Sequence[str]],
        folder: Path,
        entry: str = "train",
        after: Sequence[SubmissionRow] = (),
    ) -> list[SubmissionRow]:
        sent.append((entry, [str(place(words)) for words in commands], [one.name for one in after]))
        folder.mkdir(parents=True)
        rows = [
            StoredRow(index=i, job=None, tasks=1, words=tuple(words), run=str(place(words).absolute()))
            for i, words in enumerate(commands)
        ]
        about: dict[str, Any] = {"host": socket.gethostname(), "created": time.time(), "runs": tuple(rows)}
        made = Submission(cluster="local", entry=entry, launcher=launcher or this_process(), **about)
        made.write(folder)
        return read_submission(folder)

    return submit_runs


def asked(folder: Path, *words: str, text: str = SWEEP) -> Any:
    file = folder / "tiny.yaml"
    file.write_text(text)
    return sweep.read_words([f"sweep={file}", f"run.dir={folder}/runs", *words])


def go(ask: Any) -> int:
    """Sends what is missing; how many runs."""
    return len(sweep.sent(ask, sweep.planned(ask))[1])


def finish(ask: Any, *names: str) -> None:
    """Makes these runs of the sweep look finished."""
    for run in sweep.planned(ask).runs:
        if run.name in names:
            make_run(run.folder, *run.words, last=50.0)


def test_stages_wait_for_their_own_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: Sent = []
    monkeypatch.setattr(submit, "submit_runs", pretended(sent))
    couples = "[{pair: resnet20-resnet8}, {teacher.model: resnet14, student.model: resnet8}]"
    text = f"set: {{dataset: synthetic}}\naxes: {{couple: {couples}, method: [kd, vanilla]}}\nteachers: train\n"
    assert go(asked(tmp_path, text=text)) == 5  # a student alone is one, whatever its teacher
    folder = tmp_path / "runs/tiny/synthetic"
    first, second = folder / "teacher/resnet20/seed0", folder / "teacher/resnet14/seed0"
    assert sent == [
        ("train", [str(first), str(second), str(folder / "vanilla/resnet20-resnet8/seed0")], []),
        ("train", [str(folder / "kd/resnet20-resnet8/seed0")], [str(first)]),
        ("train", [str(folder / "kd/resnet14-resnet8/seed0")], [str(second)]),
    ]


def test_only_what_is_missing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: Sent = []
    monkeypatch.setattr(submit, "submit_runs", pretended(sent))
    ask = asked(tmp_path)
    assert go(ask) == 5 and go(ask) == 0
    finish(ask, "synthetic/teacher/resnet20/seed0", "synthetic/kd/resnet20-resnet8/seed0")
    assert go(ask) == 0  # three are still in work
    for file in tmp_path.glob("runs/tiny/job-*/submission.json"):  # whoever held them back has died
        file.write_text(file.read_text().replace(f'"pid": {this_process().pid}', '"pid": 999999999'))
    sent.clear()
    assert go(ask) == 3 and sent[0][2] == []  # the teacher is done: nothing to wait for
    assert {Path(name).parts[-3] for name in sent[0][1]} == {"kd", "at"}
    status = look(sweep.planned(ask).runs, tmp_path / "runs/tiny")
    assert (len(status.done), len(status.in_work), len(status.todo)) == (2, 3, 0)


def test_more_seeds_later_keep_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: Sent = []
    monkeypatch.setattr(submit, "submit_runs", pretended(sent))
    ask = asked(tmp_path, "axes.seed=[0]")
    assert go(ask) == 3
    finish(ask, *(run.name for run in sweep.planned(ask).runs))
    assert go(asked(tmp_path, "axes.seed=[0,1]", "axes.optim.lr=[0.1,0.2]")) == 8  # rates are in the name
    assert go(asked(tmp_path, "axes.seed=[0,1]")) == 2


def test_a_cache_waits_for_the_teacher_and_is_not_made_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: Sent = []
    monkeypatch.setattr(submit, "submit_runs", pretended(sent))
    ask = asked(tmp_path, "cache.views=1")
    assert go(ask) == 6
    teacher, cache = [run for run in sweep.planned(ask).runs if run.helper]
    assert [(entry, after) for entry, _, after in sent] == [
        ("train", []),
        ("cache_teacher", [str(teacher.folder)]),
        ("train", [str(tmp_path / "runs/tiny/cache")]),
        ("train", [str(teacher.folder)]),
    ]  # fmt: skip
    finish(ask, *(run.name for run in sweep.planned(ask).students))
    status = look(sweep.planned(ask).runs, tmp_path / "elsewhere")
    assert [run.name for run in status.spared] == [cache.name, teacher.name] and status.todo == []


def test_two_calls_at_once_send_every_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: Sent = []
    monkeypatch.setattr(submit, "submit_runs", pretended(sent))
    ask, counts, start = asked(tmp_path), list[int](), threading.Barrier(2)
    plan = sweep.planned(ask)

    def call() -> None:
        start.wait()
        counts.append(len(sweep.sent(ask, plan)[1]))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [0, 5] and sum(len(names) for _, names, _ in sent) == 5


def test_a_folder_with_another_run_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: Sent = []
    monkeypatch.setattr(submit, "submit_runs", pretended(sent))
    ask = asked(tmp_path)
    finish(ask, "synthetic/kd/resnet20-resnet8/seed0")
    with pytest.raises(sweep.ConfigError, match=r"holds a run of other settings .*optim\.epochs 1 there, 2 here"):
        go(asked(tmp_path, "optim.epochs=2"))
    assert sent == []


def test_dry_lists_and_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(asked(tmp_path), "synthetic/kd/resnet20-resnet8/seed0")
    words = [f"sweep={tmp_path}/tiny.yaml", f"run.dir={tmp_path}/runs", "cluster=local"]
    code, out, err = cli.call(sweep, [*words, "sweep.dry=true"], capsys)
    assert (code, err) == (0, "") and out.splitlines()[0] == "5 runs (1 teachers, 4 students): 1 done, 4 to do"
    assert "  synthetic/kd/resnet20-resnet8  seed 0 1: 1 done, 1 to do" in out
    assert not (tmp_path / "runs/tiny/sweep.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["first_seed=0", "axes.seed=[]"], "0 runs: axes.seed has no value"),
        (["exclude=[{dataset: synthetic}]"], "0 runs: the exclusions leave nothing of 4"),
        (
            ["axes.method_args.T=" + str([*range(250)]), "axes.optim.lr=" + str([*range(100)])],
            "100,000 runs: more than sweep.most=500; sweep.most=100000",
        ),
        (["cluster=debug"], "cluster=debug is for one run"),
        (["cluster.tasks_per_node=64"], "data.batch_size=32 is smaller than"),
        (["teachers=auto"], "no weights of resnet20 for synthetic below teachers"),
        (["teachers=given", "teacher.checkpoint=nothing.pth"], "teacher.checkpoint=nothing.pth: no such file"),
        (["teacher_set.optim.epoch=3"], "teacher resnet20: unknown key 'optim.epoch'; did you mean 'optim.epochs'"),
        (["axs.method=[kd]"], "unknown key 'axs'; did you mean 'axes'"),
    ],
)
def test_refusals_write_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    given = [f"sweep={tmp_path}/tiny.yaml", f"run.dir={tmp_path}/runs", "cluster=local", *words]
    code, out, err = cli.call(sweep, given, capsys)
    assert (code, out) == (2, "") and message in err, err
    assert not (tmp_path / "runs").exists()
