"""Recorded steps with a recorded teacher: looked up outside, the numbers of plain steps."""

from pathlib import Path

import mini_cifar
import pytest
import ranks
from cache_jobs import teacher_file, words, write

from pipeline import train
from pipeline.engine.distributed import parallel


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images (batches of 16, 16 and 8), a teacher, and a cache of two views with MLKD's strong ones."""
    folder = mini_cifar.write(tmp_path_factory.mktemp("cifar"), train=40, test=20)
    teacher_file(folder)
    argv = words(folder, f"cache.out={folder / 'cache'}", "cache.views=2", "method=mlkd")
    assert ranks.finish(ranks.start(write, (argv,), 1, folder / "cache.log")) == [0]
    return folder


@pytest.mark.parametrize("method", ["kd", "mlkd"])
def test_byte_equal(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The trace is replayed as it is, uncompiled."""
    monkeypatch.setattr(parallel, "compile_graph", lambda graph: graph)
    cached = ["teacher.source=cached", f"teacher.cache={root / 'cache'}", f"method={method}"]
    ways = {"plain": ["runtime.compile=off"], "graph": ["runtime.compile=graph"]}
    for name, more in (ways | {"checked": ["runtime.compile=graph", "teacher.verify=all"]}).items():
        line = words(root, *cached, *more, f"run.dir={tmp_path}", f"run.name={name}", "optim.epochs=6")
        train.main([*line, "log.tensorboard=false", "runtime.device=cpu"])
    files = [(tmp_path / name / "student.safetensors").read_bytes() for name in ("plain", "graph", "checked")]
    assert files[0] == files[1] == files[2]
