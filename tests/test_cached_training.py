"""Training from a cache is training with the live teacher; what does not fit is refused, naming both sides."""

import hashlib
import json
import shutil
from pathlib import Path

import cli
import mini_cifar
import numpy as np
import pytest
import ranks
from cache_jobs import teacher_file, words, write

from pipeline import train
from pipeline.teachers.cache_format import MANIFEST

VIEWS = 2
# What is written for each: the method's own further views, or none.
PLAIN = ["kd", "dkd", "dist", "energykd", "ctkd", "nkd", "lskd+dkd", "edkd", "energydkd", "kdrefine", "heda", "ttm"]
POOLED = ["rkd", "pkt", "cc", "crd", "srrl"]
VIEWED = {"mlkd": [], "r2kd": ["variant=paper", "method_args.augment=mixup"], "funmatch": []}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CIFAR-100 (13 batches an epoch, the last of 8) and a teacher."""
    folder = mini_cifar.write(tmp_path_factory.mktemp("cifar"), train=200, test=20)
    teacher_file(folder)
    return folder


def make_cache(root: Path, out: Path, *more: str, number: int = 1) -> Path:
    argv = words(root, f"cache.out={out}", f"cache.views={VIEWS}", *more)
    assert ranks.finish(ranks.start(write, (argv,), number, out.with_suffix(".log"))) == [0] * number
    return out


@pytest.fixture(scope="module")
def cache(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ordinary views with pooled vectors, written by two ranks."""
    return make_cache(root, tmp_path_factory.mktemp("caches") / "plain", "cache.pooled=true", number=2)


@pytest.fixture(scope="module")
def viewed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By method, caches of the further views that it asks for."""
    folder = tmp_path_factory.mktemp("viewed")
    return {m: make_cache(root, folder / m, f"method={m}", *more) for m, more in VIEWED.items()}


def run(root: Path, folder: Path, method: str, steps: int, *more: str) -> list[str]:
    """The words of a short training; banks and batches small."""
    small = ["method_args.K=16"] if method == "crd" else []
    return words(
        root,
        f"method={method}",
        f"run.dir={folder.parent}",
        f"run.name={folder.name}",
        f"run.limit_steps={steps}",
        "optim.epochs=20",
        "optim.milestones=[]",
        "run.eval_every=30",
        "log.tensorboard=false",
        *small,
        *more,
    )


def cached(folder: Path) -> list[str]:
    return ["teacher.source=cached", f"teacher.cache={folder}"]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same_as_live(
    root: Path, folder: Path, method: str, cache: Path, steps: int, capsys: pytest.CaptureFixture[str], *more: str
) -> None:
    """Both runs show the cache's views over and over: V is smaller than the epochs."""
    for name, source in (("live", []), ("cached", cached(cache))):
        code, _, err = cli.call(train, run(root, folder / name, method, steps, *more, *source), capsys)
        assert code == 0, err
    live, other = ((folder / name / "student.safetensors").read_bytes() for name in ("live", "cached"))
    assert losses(folder / "live") == losses(folder / "cached")
    assert live == other


@pytest.mark.parametrize("method", PLAIN + POOLED)
def test_steps_are_those_of_the_live_teacher(
    method: str, root: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same_as_live(root, tmp_path, method, cache, 26, capsys)


@pytest.mark.parametrize("method", VIEWED)
def test_further_views_too(
    method: str, root: Path, viewed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same_as_live(root, tmp_path, method, viewed[method], 26, capsys, *VIEWED[method])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "dkd", "dist", "mlkd", "funmatch"])
def test_two_hundred_steps(method: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With as many views as epochs: 16."""
    out = tmp_path / "cache"
    argv = words(root, f"cache.out={out}", "cache.views=16", f"method={method}")
    assert ranks.finish(ranks.start(write, (argv,), 1, tmp_path / "log")) == [0]
    same_as_live(root, tmp_path, method, out, 200, capsys)


@pytest.mark.parametrize("written_by", [("resident", 1, 64), ("torch", 2, 48)], ids=["resident", "torch"])
def test_other_ranks_batches_and_loaders_read_it(
    written_by: tuple[str, int, int], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loader, number, batch = written_by
    other, others, rows = {"resident": ("torch", 2, 48), "torch": ("resident", 1, 64)}[loader]
    made = make_cache(root, tmp_path / "cache", f"data.loader={loader}", f"data.batch_size={batch}", number=number)
    read = [f"data.loader={other}", f"data.batch_size={rows}"]
    for name, source in (("live", []), ("cached", [*cached(made), "teacher.verify=all"])):
        argv = run(root, tmp_path / name, "kd", 8, *read, *source)
        codes, text = ranks.run_train(argv, others, tmp_path / f"log-{name}")
        assert codes == [0] * others, text
    assert (tmp_path / "live/student.safetensors").read_bytes() == (
        tmp_path / "cached/student.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("data.seed=1", "data.seed is 0 there, 1 here"),
        ("data.padding=2", "data.padding is 4 there, 2 here"),
        ("data.flip=false", "data.flip is true there, false here"),
        ("data.mean=[0,0,0]", "data.mean is"),
        ("data.image_size=28", "data.image_size is 32 there, 28 here"),
        ("teacher.model=resnet14", "teacher."),
        ("runtime.amp=bf16", "precision.amp is off there, bf16 here"),
        ("teacher.amp=bf16", "precision.amp is off there, bf16 here"),
        ("teacher.fold=off", "precision.fold is true there, false here"),
        ("data.val_split=20", "dataset.held_out is null there, [20, 0] here"),
        ("method=mlkd", "streams.strong is null there"),
        ("method=fitnet", "fitnet needs FEATURES; teacher.source=cached provides LOGITS|POOLED|WEIGHTS"),
        ("teacher.cache=null", "needs teacher.cache=DIR"),
    ],
)
def test_another_run_is_refused(
    change: str, text: str, root: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = run(root, tmp_path / "run", "kd", 4, *cached(cache), change)
    extra = ["teacher.checkpoint=none"] if "resnet14" in change else []
    code, _, err = cli.call(train, [*argv, *extra], capsys)
    assert code == 2 and text in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


def test_another_data_set_or_order_is_refused(
    root: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = mini_cifar.write(tmp_path / "other", train=199, test=20)
    shutil.copy(root / "teacher.pth", other)
    code, _, err = cli.call(train, run(other, tmp_path / "run", "kd", 4, *cached(cache)), capsys)
    assert code == 2 and "dataset.fingerprint is" in err


def test_mixed_views_belong_to_their_batches(
    root: Path, viewed: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = run(root, tmp_path / "run", "funmatch", 4, *cached(viewed["funmatch"]), "data.batch_size=20")
    code, _, err = cli.call(train, argv, capsys)
    assert code == 2 and "streams.mixed.batch_size is 16 there, 20 here" in err


@pytest.fixture
def copy(cache: Path, tmp_path: Path) -> Path:
    """A cache that may be damaged."""
    shutil.copytree(cache, tmp_path / "copy")
    return tmp_path / "copy"


def damage(folder: Path, kind: str) -> None:
    path = folder / "view-00001.logits.npy"
    content = bytearray(path.read_bytes())
    if kind == "bit":
        content[5000] ^= 4
    if kind == "short":
        del content[-7:]
    path.write_bytes(content)
    if kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "text"),
    [("bit", "is damaged: SHA-256"), ("short", "bytes, 80128 were written"), ("missing", "is missing")],
)
def test_damaged_views_are_refused(
    kind: str, text: str, root: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The flipped bit lies in the second view: found before that is used."""
    damage(copy, kind)
    code, _, err = cli.call(train, run(root, tmp_path / "run", "kd", 30, *cached(copy)), capsys)
    assert code == 2 and "view-00001.logits.npy" in err and text in err


def test_other_numbers_than_the_live_teachers_are_found_by_the_first_batch(
    root: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "view-00000.logits.npy"
    np.save(path, np.load(path) * np.float32(1.001))
    words_of_run = run(root, tmp_path / "run", "kd", 4, *cached(copy))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][path.name]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (copy / MANIFEST).write_text(json.dumps(manifest))
    code, _, err = cli.call(train, words_of_run, capsys)
    assert code == 2 and "differ from the live teacher's by" in err
    assert cli.call(train, [*words_of_run, "teacher.verify=off"], capsys)[0] == 0


def test_without_a_checkpoint_only_the_records_are_there(
    root: Path, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [*cached(cache), "teacher.checkpoint=null"]
    assert cli.call(train, run(root, tmp_path / "kd", "kd", 4, *alone), capsys)[0] == 0
    code, _, err = cli.call(train, run(root, tmp_path / "srrl", "srrl", 4, *alone), capsys)
    assert code == 2 and "srrl needs WEIGHTS" in err
    code, _, err = cli.call(train, run(root, tmp_path / "heda", "heda", 4, *alone), capsys)
    assert code == 2 and "give teacher.checkpoint=FILE" in err


def test_largest_classes_only_must_be_allowed(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_cache(root, tmp_path / "cache", "cache.dtype=topk", "cache.k=10")
    argv = run(root, tmp_path / "run", "kd", 4, *cached(made))
    code, _, err = cli.call(train, argv, capsys)
    assert code == 2 and "holds the 10 largest classes only" in err and "teacher.allow_lossy=true" in err
    assert cli.call(train, [*argv, "teacher.allow_lossy=true"], capsys)[0] == 0
