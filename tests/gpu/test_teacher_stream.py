"""The teacher on a stream of its own: the numbers of the teacher in line, on another stream than the student."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from methods.lab import config_of
from models.families import image, make
from torch import nn

from pipeline.builders.teacher import Ask, build_live, run_beside
from pipeline.contracts import Batch, Signal
from pipeline.engine.distributed.parallel import World
from pipeline.teachers.beside import SideStream
from pipeline.teachers.live import LiveTeacher

pytestmark = pytest.mark.gpu
STEPS = 20


def trained(overlap: Callable[[LiveTeacher, nn.Module], None]) -> dict[str, torch.Tensor]:
    """A student after some steps of distillation."""
    device = torch.device("cuda")
    config = config_of("kd", "resnet32x4-resnet8x4", "teacher.checkpoint=none", "runtime.deterministic=true")
    world = World(rank=0, ranks=1, device=device, side=None)
    teacher = build_live(config, Ask(Signal.LOGITS, 7, world), "live")
    assert isinstance(teacher, LiveTeacher)
    student = make("resnet8x4").to(device, memory_format=torch.channels_last)
    overlap(teacher, student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    label_B = torch.arange(64, device=device) % 7
    for step in range(STEPS):
        image_BCHW = (image(64, 32) + step / STEPS).to(device, memory_format=torch.channels_last)
        batch = Batch(image_BCHW=image_BCHW, label_B=label_B, index_B=label_B)
        taught = teacher(batch)
        del batch
        logits_BK = student(image_BCHW).logits_BK
        loss = F.mse_loss(logits_BK, taught.logits_BK) + F.cross_entropy(logits_BK, label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.state_dict()


def test_equal_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        in_line = trained(lambda teacher, student: None)
        side = SideStream(torch.device("cuda"))
        assert side.stream != torch.cuda.current_stream()
        beside = trained(lambda teacher, student: run_beside(teacher, student, side))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, beside[key]) for key, value in in_line.items())
