"""What ranks say when one of them fails, cannot be met, or the machine refuses something."""

import errno
import socket
from pathlib import Path

import mini_cifar
import pytest
import ranks
import stopping
from test_resume import words

from pipeline.contracts import InputError
from pipeline.process import machine_errors, meeting


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_cifar.write(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("rank", "wrong", "expected"),
    [
        (0, "data.root=/nowhere", "error: no cifar100 in /nowhere"),
        (1, "data.root=/nowhere", "error: no cifar100 in /nowhere"),
        (1, "method=kdx", "error: unknown method 'kdx'"),
    ],
)
def test_the_reason_of_one_rank_alone_is_said_once(
    rank: int, wrong: str, expected: str, data: Path, tmp_path: Path
) -> None:
    own = [words(data, tmp_path, "x"), words(data, tmp_path, "x")]
    own[rank].append(wrong)
    codes = ranks.finish(ranks.start(stopping.own_words, (own,), 2, tmp_path / "log"))
    logs = [(tmp_path / f"log.{number}").read_text() for number in (0, 1)]
    assert codes == [2, 2], logs
    assert (("rank 1: " if rank else "") + expected) in logs[rank]
    assert "".join(logs).count(expected) == 1 and "Traceback" not in "".join(logs)
    if rank == 1:
        assert logs[0].splitlines()[-1] == "error: rank 1 ended with code 2, and so does this run"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"RANK": "x"}, "RANK='x'"),
        ({"RANK": "2"}, "RANK='2'"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE='-1'"),
        ({"RANK": ""}, "RANK is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT='70000'"),
        ({"LOCAL_RANK": "a"}, "LOCAL_RANK='a'"),
    ],
)
def test_a_launcher_that_makes_no_sense_is_refused(
    extra: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}
    for name, value in (fine | extra).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as refused:
        meeting.place()
    assert expected in str(refused.value)


def test_a_port_in_use_and_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(meeting.NotMet, match=f":{port}: the port is in use"):
            meeting.open_store(meeting.Place(0, 2, 0, "127.0.0.1", port), 1)
        monkeypatch.setattr(meeting, "ANSWER", 0.5)
        with pytest.raises(meeting.NotMet, match="it answers, but not as the first rank"):
            meeting.open_store(meeting.Place(1, 2, 1, "127.0.0.1", port), 1)
    with pytest.raises(meeting.NotMet, match="nobody at"):
        meeting.open_store(meeting.Place(1, 2, 1, "127.0.0.1", ranks.free_port()), 0.2)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "out of memory"),
        (OSError(errno.EMFILE, "Too many open files", "/x"), "Too many open files (raise the limit: ulimit -n): /x"),
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "data worker 12 was killed: Killed"),
        (RuntimeError("DataLoader worker (pid(s) 1, 2) exited unexpectedly"), "data worker 1, 2 ended unexpectedly"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error."), "/dev/shm"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left (28)"), "/dev/shm"),
        (RuntimeError("can't start new thread"), "no further thread"),
        (ValueError("x"), None),
        (RuntimeError("The size of tensor a (3) must match"), None),
    ],
)
def test_what_the_machine_did_is_one_line(error: Exception, expected: str | None) -> None:
    said = machine_errors.known(error)
    assert said is None if expected is None else said is not None and expected in said and "\n" not in said
