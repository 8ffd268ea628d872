"""How many seeds run at once, with how many threads, and what their lines look like on the way."""

import io
import json
import multiprocessing

import pytest
from rich.console import Console

from pipeline.config import RuntimeConfig
from pipeline.engine.seeds import share, share_out
from pipeline.engine.seeds.child import PIECE, Channel, Lines, SeedReporter
from pipeline.engine.seeds.display import Display
from pipeline.engine.seeds.share import CONTEXT, WARM, Seen, Share, limit_by

GIB = 1 << 30


@pytest.mark.parametrize(
    ("seeds", "at_once", "threads", "omp", "expected"),
    [
        (5, 0, 0, "", (5, 3)),  # auto, 16 cores: one core each is enough to start, then all cores are shared out
        (5, 0, 4, "", (4, 4)),
        (5, 0, 0, "8", (2, 8)),
        (5, 0, 4, "8", (4, 4)),  # the key is nearer than the environment
        (5, 0, 32, "", (1, 32)),
        (40, 0, 0, "", (16, 1)),
        (5, 2, 0, "", (2, 8)),
        (5, 9, 0, "4,2", (5, 4)),
        (32, 32, 0, "no number", (32, 1)),
    ],
)
def test_shares(
    seeds: int, at_once: int, threads: int, omp: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", omp)
    got = share_out(seeds, RuntimeConfig(parallel_seeds=at_once, threads=threads))
    assert (got.at_once, got.threads) == expected and got.by_memory == (at_once == 0)


def test_memory_limits_what_is_left_to_choose() -> None:
    auto = Share(at_once=5, threads=1, by_memory=True)
    given = Share(at_once=5, threads=1, by_memory=False)
    warm = Seen(steps=WARM, device="cuda", free=31 * GIB, peak=6 * GIB)
    assert CONTEXT == GIB and limit_by(auto, warm) == 1 + 3  # 31 / (1.5 * 6 + 1)
    assert limit_by(given, warm) == 5
    assert limit_by(auto, Seen(steps=1, device="cuda", free=31 * GIB, peak=6 * GIB)) == 1  # too early to say
    assert limit_by(auto, Seen(steps=WARM, device="cuda", free=GIB, peak=40 * GIB)) == 1
    assert limit_by(auto, Seen(steps=WARM, device="cuda", free=70 * GIB, peak=GIB)) == 5
    assert limit_by(auto, Seen(steps=1, device="cpu")) == 5


def messages(pipe: "multiprocessing.connection.Connection") -> list[list[object]]:
    found = []
    while pipe.poll():
        found.append(json.loads(pipe.recv_bytes()))
    return found


def test_a_child_sends_whole_lines_and_outlives_its_pipe() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    lines = Lines(Channel(writer), "stderr")
    print("one\ntw", end="", file=lines)
    assert messages(reader) == [["line", "stderr", "one"]]
    print("o\n", file=lines)
    lines.write("\N{SNOWMAN}" * (PIECE + 1))
    lines.finish()
    kind = ["line", "stderr"]
    assert messages(reader) == [[*kind, "two"], [*kind, ""], [*kind, "\N{SNOWMAN}" * PIECE], [*kind, "\N{SNOWMAN}"]]
    lines.write("\udc80\n")  # half a character, as in names of files
    assert len(messages(reader)) == 1
    reader.close()
    print("nobody hears this", file=lines)


def test_a_bar_moves_by_messages_and_measures_come_twice() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)
    reporter = SeedReporter(Channel(writer), bars=True)
    reporter.start_epoch(2, 3, 10, 40)
    for _ in range(WARM + 1):
        reporter.step_done()
    reporter.figures(
        2, 3, 31, 40, {"train_loss": 1, "terms": {}, "train_top1": 2, "images_per_second": 3, "data_wait": 0}, 4
    )
    found = messages(reader)
    assert [m[1]["steps"] for m in found if m[0] == "seen"] == [1, WARM]  # type: ignore[index]
    bars = [m for m in found if m[0] == "bar"]
    assert (
        bars[0][:4] == ["bar", "2/3", 11, 40] and bars[-1][1:4] == ["2/3", 31, 40] and "left 0:04" in str(bars[-1][4])
    )


def test_lines_stand_above_the_bars(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = io.StringIO()
    display = Display(Console(file=terminal, force_terminal=True, highlight=False, width=100))
    assert display.bars and not Display().bars
    display.bar(0, "1/2", 3, 10, "")
    display.bar(1, "1/2", 4, 10, "loss 1")
    display.line(1, "stderr", "[a line] of seed 1")
    for seed in (0, 1, 2):  # the last one never had a bar
        display.end(seed)
    text = terminal.getvalue()
    assert "seed 1 | [a line] of seed 1\n" in text and text.count("3/10") == text.count("loss 1") > 1
    assert capsys.readouterr() == ("", "")
    display.line(0, "stdout", "plain")
    display.line(0, "stderr", "wrong")
    assert capsys.readouterr() == ("seed 0 | plain\n", "seed 0 | wrong\n") and terminal.getvalue() == text
