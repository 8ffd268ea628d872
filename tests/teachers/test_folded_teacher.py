"""teacher.fold, teacher.amp and teacher.stream: what runs, what methods read, and what a cache is told."""

import contextlib
import json
from pathlib import Path

import pytest
import torch
from methods.lab import Bench, config_of
from models.families import image, make
from torch import Tensor, nn

from pipeline.builders.cache_key import precision_of, weights_hash
from pipeline.builders.teacher import Ask, build_live, reads_after_student, run_beside
from pipeline.contracts import Batch, InputError, ModelOutput, Signal
from pipeline.engine.distributed.parallel import World
from pipeline.models.folding import fold_norms
from pipeline.teachers.cache_format import MANIFEST, Layout, Manifest, read_manifest
from pipeline.teachers.live import LiveTeacher
from pipeline.teachers.pruned import PrunedTeacher

PAIR = "resnet20-resnet8"
WORLD = World(rank=0, ranks=1, device=torch.device("cpu"), side=None)


def norms(network: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def teacher_of(method: str, *words: str) -> LiveTeacher | PrunedTeacher:
    config = config_of(method, PAIR, "teacher.checkpoint=none", *words)
    return build_live(config, Ask(Signal.LOGITS, 100, WORLD), config.teacher.source)


def batch_of(rows: int) -> Batch:
    return Batch(image_BCHW=image(rows, 32), label_B=torch.arange(rows), index_B=torch.arange(rows))


@pytest.mark.parametrize(
    ("words", "fold"),
    [
        (("kd",), True),
        (("crd",), True),
        (("srrl",), True),
        (("kd", "teacher.fold=false"), False),
        (("fitnet",), False),
        (("fitnet", "teacher.fold=true"), True),
        (("ofd",), False),
        (("r2kd", "variant=original"), False),
        (("kd", "runtime.amp=bf16"), True),
    ],
    ids=str,
)
def test_what_is_folded(words: tuple[str, ...], fold: bool) -> None:
    method, *more = words
    assert precision_of(config_of(method, PAIR, *more))["fold"] is fold


@pytest.mark.parametrize(
    ("words", "amp"),
    [
        ((), "off"),
        (("runtime.amp=bf16",), "bf16"),
        (("teacher.amp=bf16",), "bf16"),
        (("runtime.amp=bf16", "teacher.amp=off"), "off"),
    ],
    ids=str,
)
def test_its_own_autocast(words: tuple[str, ...], amp: str) -> None:
    assert precision_of(config_of("kd", PAIR, *words))["amp"] == amp
    teacher, plain = teacher_of("kd", *words), teacher_of("kd", "teacher.amp=off")
    found, wanted = (t(batch_of(3)).logits_BK for t in (teacher, plain))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted) is (amp == "off") and torch.allclose(found, wanted, atol=0.1, rtol=0.1)


def test_the_folded_network_runs_and_the_other_is_read() -> None:
    folded, plain = teacher_of("kd"), teacher_of("kd", "teacher.fold=off")
    assert norms(folded.running) == 0 < norms(folded.network) == norms(plain.running)
    assert plain.running is plain.network
    assert weights_hash(folded.network) == weights_hash(plain.network)
    assert len(folded.network.bn_before_relu()) == 3
    found, wanted = folded(batch_of(4)), plain(batch_of(4))
    torch.testing.assert_close(found.logits_BK, wanted.logits_BK, rtol=1e-4, atol=1e-5)
    assert not found.logits_BK.requires_grad and torch.equal(folded(batch_of(4)).logits_BK, found.logits_BK)


def test_batch_statistics_are_not_folded() -> None:
    original = teacher_of("r2kd", "variant=original", "teacher.fold=on")
    assert isinstance(original, PrunedTeacher)
    assert norms(original.running) == 0 < norms(original.pruned) and original.pruned.training
    paper = teacher_of("r2kd", "variant=paper")
    assert norms(paper.running) == norms(paper.pruned) == 0
    with pytest.raises(InputError, match="fold=on: method ofd runs its teacher on the statistics"):
        teacher_of("ofd", "teacher.fold=on")


def test_a_folded_pruned_teacher_is_the_pruned_teacher() -> None:
    found, wanted = (teacher_of("r2kd", "variant=paper", f"teacher.fold={on}")(batch_of(4)) for on in ("on", "off"))
    torch.testing.assert_close(found.logits_BK, wanted.logits_BK, rtol=1e-4, atol=1e-5)


def test_the_fingerprint_knows_numbers_only() -> None:
    plain = config_of("kd", PAIR).fingerprint()
    assert config_of("kd", PAIR, "teacher.stream=true").fingerprint() == plain
    assert config_of("kd", PAIR, "teacher.fold=off").fingerprint() != plain


def test_manifests_written_before_say_unfolded(tmp_path: Path) -> None:
    layout = Layout(samples=2, classes=3, pooled=0, views=1, dtype="fp32")
    files = {name: {"bytes": 1, "sha256": ""} for name in layout.files(0)}
    for said, read in (({"amp": "off"}, {"amp": "off", "fold": False}), ({"amp": "off", "fold": True},) * 2):
        text = Manifest(layout=layout, identity={"precision": said}, files=files).text()
        (tmp_path / MANIFEST).write_text(text)
        assert read_manifest(tmp_path).identity["precision"] == read
        assert json.loads(text)["identity"]["precision"] == said


class Diary:
    """Beside as a list of what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def run(self, work, *inputs: Tensor) -> ModelOutput:
        self.events.append("teacher")
        return work()

    def join(self) -> None:
        self.events.append("join")


def live(diary: Diary) -> LiveTeacher:
    return LiveTeacher(
        lambda: make("resnet8"),
        needs=Signal.LOGITS,
        autocast=contextlib.nullcontext,
        ready=lambda network: fold_norms(network, image(1, 32)),
        beside=diary,
    )


def test_outputs_are_ready_when_they_are_given() -> None:
    diary = Diary()
    live(diary)(batch_of(2))
    assert diary.events == ["teacher", "join"]


def test_beside_the_student_the_losses_wait() -> None:
    diary, student = Diary(), make("resnet8")
    teacher = live(Diary())
    run_beside(teacher, student, diary)
    output = teacher(batch_of(2))
    assert diary.events == ["teacher"]
    student.fc.register_forward_hook(lambda *_: diary.events.append("student"))
    student(batch_of(2).image_BCHW)
    assert diary.events == ["teacher", "student", "join"] and not output.logits_BK.requires_grad


@pytest.mark.parametrize(
    ("words", "last"),
    [(("kd",), True), (("mlkd",), False), (("energykd",), False), (("kd", "runtime.compile=default"), False)],
    ids=str,
)
def test_only_where_nothing_reads_before(words: tuple[str, ...], last: bool) -> None:
    method, *more = words
    config = config_of(method, PAIR, *more)
    assert reads_after_student(config, Bench(config, side=16).method) is last
