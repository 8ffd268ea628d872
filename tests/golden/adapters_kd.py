"""Golden cases of plain KD and of learning-rate schedules."""

import torch
import torch.nn.functional as F
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor

from pipeline.config import OptimConfig
from pipeline.contracts import Batch, ModelOutput
from pipeline.distillers.kd import KD, kd_loss
from pipeline.engine.schedule import learning_rate


@adapter("KD")
def mdistiller_kd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    method = KD(KD.Config(T=float(h["TEMPERATURE"]), ce_weight=h["CE_WEIGHT"], kd_weight=h["KD_WEIGHT"]))
    student, teacher, label = inputs["logits_student"], inputs["logits_teacher"], inputs["target"]
    batch = Batch(image_BCHW=student, label_B=label, index_B=label)
    terms = method(ModelOutput(student, student), ModelOutput(teacher.detach(), teacher), batch, torch.zeros(()))
    total = terms["ce"] + terms["kd"]
    return {"loss_ce": terms["ce"], "loss_kd": terms["kd"], "total": total, "backward": total}


@adapter("kd")
def repdistiller_kd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    by_side = {name.split("/")[0]: tensor for name, tensor in inputs.items()}
    loss = kd_loss(by_side["logit_s"], by_side["logit_t"].detach(), case.hyper["T"])
    return {"loss": loss, "backward": loss}


def rates(lr: float, milestones: list[int], gamma: float, epochs: list[int]) -> Tensor:
    """Rates of epochs that count from 1, read in the middle of each."""
    optim = OptimConfig(lr=lr, milestones=tuple(milestones), gamma=gamma, schedule="multistep")
    return torch.tensor([learning_rate(optim, (epoch - 1) * 782 + 391, 782) for epoch in epochs], dtype=torch.float64)


@adapter("adjust_learning_rate")
def mdistiller_schedule(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    return {"lr": rates(h["LR"], h["STAGES"], h["RATE"], inputs["epochs"].tolist())}


@adapter("schedule")
def repdistiller_schedule(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    return {"out/lr": rates(h["base"], h["milestones"], 0.1, list(range(1, h["epochs"] + 1)))}


def naive_kd(student_BK: Tensor, teacher_BK: Tensor, T: float) -> Tensor:
    """The formula as a sum over all pairs, for the tests."""
    p = F.softmax(teacher_BK / T, dim=1)
    q = F.softmax(student_BK / T, dim=1)
    return T * T * (p * (p.log() - q.log())).sum() / len(p)
