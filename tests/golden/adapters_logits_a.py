"""Golden cases of DKD, EDKD, EnergyKD, EnergyDKD, HE-DA, KDrefine, LSKD, NKD, USKD and DIST, through their classes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from adapters_loops import LOOPS
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes, View
from pipeline.distillers.common.energy import EnergyBands, energy, full_batches
from pipeline.distillers.common.mixed_rows import chosen_rows
from pipeline.distillers.dist import DIST, inter_loss, intra_loss, rows_of_pixels
from pipeline.distillers.dkd import DKD, dkd_loss, warm_up
from pipeline.distillers.edkd import EDKD, confidence, rest_weight
from pipeline.distillers.energydkd import EnergyDKD
from pipeline.distillers.energykd import EnergyKD
from pipeline.distillers.heda import HEDA
from pipeline.distillers.kd import KD
from pipeline.distillers.kdrefine import KDrefine
from pipeline.distillers.lskd import LSKD
from pipeline.distillers.nkd import NKD
from pipeline.distillers.uskd import USKD
from pipeline.utils.mixing import cutmix, mixup


class Given(NamedTuple):
    """What a method takes, made of a case's inputs."""

    student: ModelOutput
    teacher: ModelOutput
    batch: Batch


def output_of(logits_BK: Tensor, *maps: Tensor) -> ModelOutput:
    return ModelOutput(logits_BK, logits_BK, maps)


def given(inputs: dict[str, Tensor]) -> Given:
    """From either manifest's names of logits and labels."""
    student = next(inputs[k] for k in ("logits_student", "logit_s") if k in inputs)
    teacher = next((inputs[k] for k in ("logits_teacher", "logit_t") if k in inputs), student)
    label = inputs["target"]
    batch = Batch(image_BCHW=inputs.get("image", student), label_B=label, index_B=torch.arange(len(label)))
    return Given(output_of(student), output_of(teacher.detach()), batch)


def terms_of(method: Distiller, found: Given, epoch: int | None, *extra: View) -> dict[str, Tensor]:
    """The method's terms in the reference's epoch, which counts from 1 (0 is before the first)."""
    progress = torch.tensor(0.0 if epoch is None else epoch - 1.0)
    return method(*found, progress, *extra)


def totalled(named: dict[str, Tensor], total: str = "total") -> Outputs:
    """The named losses with their sum, which is what the case differentiates."""
    loss = torch.stack(list(named.values())).sum()
    return {**named, total: loss, "backward": loss}


def dkd_config(h: dict[str, Any]) -> Any:
    return DKD.Config(
        ce_weight=h["CE_WEIGHT"], alpha=h["ALPHA"], beta=h["BETA"], T=h["T"], warmup=h["WARMUP"],
        standardise=h.get("LOGIT_STAND", False),
    )  # fmt: skip


@adapter("DKD", "LSKD-DKD")
def mdistiller_dkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    terms = terms_of(DKD(dkd_config(case.hyper)), given(inputs), case.epoch)
    return totalled({"loss_ce": terms["ce"], "loss_kd": terms["kd"]})


@adapter("dkd")
def kdrefine_dkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    method = DKD(DKD.Config(T=case.hyper["T"], warmup=case.hyper["warmup"]), variant="kdrefine")
    return totalled({"out/kd": terms_of(method, given(inputs), case.hyper["epoch"])["kd"]}, "loss")


@adapter("dkd_official")
def official_dkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, found = case.hyper, given(inputs)
    logits = (found.student.logits_BK, found.teacher.logits_BK)
    return totalled({"out/kd": dkd_loss(*logits, found.batch.label_B, h["alpha"], h["beta"], h["T"])}, "loss")


@adapter("EDKD")
def edkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, found = case.hyper, given(inputs)
    method = EDKD(EDKD.Config(ce_weight=h["CE_WEIGHT"], T=h["T"], warmup=h["WARMUP"], alpha=h["alpha_hardcoded"]))
    terms = terms_of(method, found, case.epoch)
    student_BK, teacher_BK, label_B = found.student.logits_BK, found.teacher.logits_BK, found.batch.label_B
    beta_B = rest_weight(teacher_BK, label_B, method.config.beta, h["T"])
    parts = [dkd_loss(student_BK, teacher_BK, label_B, *weights, h["T"]) for weights in ((1, 0), (0, 1))]
    grown = warm_up(torch.tensor((case.epoch or 0) - 1.0), h["WARMUP"], student_BK)
    return totalled({"loss_ce": terms["ce"], "loss_kd": terms["kd"]}) | {
        "p_s": confidence(student_BK, label_B, h["T"]),
        "p_t": confidence(teacher_BK, label_B, h["T"]),
        "beta": beta_B,
        "loss_kd_vector": grown * (h["alpha_hardcoded"] * parts[0] + beta_B * parts[1]),
    }


def with_thresholds(bands: EnergyBands, inputs: dict[str, Tensor]) -> None:
    """The case's thresholds in place of learned ones, in its precision."""
    bands.to(inputs["low_threshold"].dtype)
    bands.low.copy_(inputs["low_threshold"].detach().squeeze())
    bands.high.copy_(inputs["high_threshold"].detach().squeeze())


def temperatures(h: dict[str, Any]) -> dict[str, float]:
    return {"T_low": h["T_LOW"], "T_mid": h["T_MID"], "T_high": h["T_HIGH"], "energy_T": h["energy_T"]}


def by_energy(method: EnergyKD | EnergyDKD, case: Case, inputs: dict[str, Tensor]) -> Outputs:
    with_thresholds(method.temperature.bands, inputs)
    found = given(inputs)
    terms = terms_of(method, found, case.epoch)
    return totalled({"loss_ce": terms["ce"], "loss_kd": terms["kd"]}) | {
        "energy": energy(found.teacher.logits_BK, case.hyper["energy_T"]),
        "temperature": method.temperature(found.teacher.logits_BK),
    }


@adapter("energyKD")
def energykd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    config = EnergyKD.Config(ce_weight=h["CE_WEIGHT"], kd_weight=h["KD_WEIGHT"], **temperatures(h))
    return by_energy(EnergyKD(config), case, inputs)


@adapter("energyDKD")
def energydkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    config = EnergyDKD.Config(
        ce_weight=h["CE_WEIGHT"], alpha=h["ALPHA"], beta=h["BETA"], warmup=h["WARMUP"], **temperatures(h)
    )
    return by_energy(EnergyDKD(config), case, inputs)


@adapter("energyKD.cal_energy")
def thresholds(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, logits_NK = case.hyper, inputs["teacher_logits"].detach()
    shapes = Shapes(logits_NK.shape[1], 1, ())
    config = EnergyKD.Config(low_rate=h["LOW_RATE"], high_rate=h["HIGH_RATE"], energy_T=h["energy_T"])
    method = EnergyKD(config, Setting(student=shapes, batch_size=h["BATCH_SIZE"])).to(logits_NK.dtype)
    method.learn(method.digest(logits_NK), torch.zeros(len(logits_NK), dtype=torch.int64))
    bands = method.temperature.bands
    return {
        "low_threshold": bands.low,
        "high_threshold": bands.high,
        "rows_used": torch.tensor(full_batches(len(logits_NK), h["BATCH_SIZE"])),
    }


def box_around(centre: Tensor, weight: float, height: int, width: int) -> Tensor:
    """The reference's box: its first axis is the image's second last one."""
    share = (1 - weight) ** 0.5
    limits = torch.tensor([height, width])
    half = torch.tensor([int(height * share), int(width * share)]) // 2
    start, stop = (centre - half).clamp(min=0).minimum(limits), (centre + half).clamp(min=0).minimum(limits)
    return torch.cat([start, stop - start])


@adapter("energyAUG")
def heda(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, found = case.hyper, given(inputs)
    config = HEDA.Config(
        T=h["TEMPERATURE"], ce_weight=h["CE_WEIGHT"], kd_weight=h["KD_WEIGHT"], augment=h["AUGMENTATION"].lower()
    )
    method = HEDA(config)
    with_thresholds(method.bands, inputs)
    row_M = chosen_rows(method._outside(found.teacher), method.seeds)
    assert row_M.tolist() == inputs["selected"].tolist()
    image_MCHW, weight = found.batch.image_BCHW.detach()[row_M], float(inputs["drawn_lambda"].detach())
    partner_MCHW = image_MCHW[inputs["drawn_permutation"]]
    if "drawn_cx_cy" in inputs:
        mixed_MCHW = cutmix(image_MCHW, partner_MCHW, box_around(inputs["drawn_cx_cy"], weight, *image_MCHW.shape[2:]))
    else:
        mixed_MCHW = mixup(image_MCHW, partner_MCHW, weight)
    student, teacher = output_of(inputs["logits_student_aug"]), output_of(inputs["logits_teacher_aug"].detach())
    terms = terms_of(method, found, case.epoch, View(student, teacher, found.batch))
    return totalled({f"loss_{name}": terms[name] for name in ("ce", "kd", "aug")}) | {
        "mixed_image_sample_stride37": mixed_MCHW.flatten()[::37],
        "mixed_image_sum": mixed_MCHW.sum(),
    }


@adapter("kdrefine")
def kdrefine(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, found = case.hyper, given(inputs)
    variant = {2: "kdrefine", 4: "kdrefine-2022"}[h["multiplier"]]
    terms = terms_of(
        KDrefine(KDrefine.Config(ce_weight=h["gamma"], kd_weight=h["alpha"], T=h["T"]), variant=variant), found, None
    )
    plain = terms_of(KDrefine(KDrefine.Config(ce_weight=1, kd_weight=1, T=h["T"]), variant=variant), found, None)
    result = totalled(terms, "loss")
    return result | {"out/ce": plain["ce"], "out/kl": plain["kd"], "out/loop_total": result["loss"]}


@adapter("LSKD-KD")
def lskd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    kind: Any = LSKD if h["LOGIT_STAND"] else KD
    method = kind(kind.Config(T=h["TEMPERATURE"], ce_weight=h["CE_WEIGHT"], kd_weight=h["KD_WEIGHT"]))
    terms = terms_of(method, given(inputs), case.epoch)
    return totalled({"loss_ce": terms["ce"], "loss_kd": terms["kd"]})


@adapter("NKD")
def nkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    method = NKD(NKD.Config(T=case.hyper["temp"], gamma=case.hyper["gamma"]))
    return totalled({"loss_nkd": terms_of(method, given(inputs), None)["nkd"]})


@adapter("USKD")
def uskd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, found = case.hyper, given(inputs)
    pooled_BC = inputs["fea_mid"]
    shapes = Shapes(h["num_classes"], 1, ((pooled_BC.shape[1], 1, 1), (1, 1, 1)))
    method = USKD(USKD.Config(alpha=h["alpha"], beta=h["beta"], mu=h["mu"]), Setting(student=shapes))
    method.to(pooled_BC.dtype)
    values = case.parameters("f64" if pooled_BC.dtype == torch.float64 else "f32")
    method.load_state_dict({key: value.detach() for key, value in values.items()})
    student = output_of(found.student.logits_BK, pooled_BC[:, :, None, None], pooled_BC[:, :1, None, None])
    terms = terms_of(method, found._replace(student=student), None)
    named = totalled({"loss_uskd": terms["own"] + terms["rest"] + terms["weak"]})
    return named | {"parameters": {key: dict(method.named_parameters())[key] for key in values}}


@adapter("DIST")
def dist(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, found = case.hyper, given(inputs)
    config = DIST.Config(
        T=h["tau"], beta=h["beta"], gamma=h["gamma"], ce_weight=h["ori_loss_weight"],
        kd_weight=h["kd_loss_weight_in_recipes"],
    )  # fmt: skip
    terms = terms_of(DIST(config), found, None)
    unweighted = DIST(DIST.Config(T=h["tau"], kd_weight=1))(*found, torch.zeros(()))
    both = h["beta"] * unweighted["inter"] + h["gamma"] * unweighted["intra"]
    named = totalled({"loss_ce": terms["ce"], "loss_kd": terms["inter"] + terms["intra"]})
    return named | {"inter": unweighted["inter"], "intra": unweighted["intra"], "dist_unweighted": both}


@adapter("DIST(seg)")
def dist_of_pixels(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    probabilities = [F.softmax(rows_of_pixels(inputs[key]), dim=1) for key in ("logits_student", "logits_teacher")]
    probabilities[1] = probabilities[1].detach()
    h = case.hyper
    return totalled({"loss_kd": h["beta"] * inter_loss(*probabilities) + h["gamma"] * intra_loss(*probabilities)})


def loop_of(kind: Any) -> Callable[[Case, dict[str, Tensor]], Outputs]:
    """A repository's iteration with a method of logits; SimKD calls the weights cls and div."""

    def loop(case: Case, inputs: dict[str, Tensor]) -> Outputs:
        h = case.hyper
        config = kind.Config(T=h["T"], ce_weight=h.get("gamma", h.get("cls")), kd_weight=h.get("alpha", h.get("div")))
        result = totalled(terms_of(kind(config), given(inputs), None), "loss")
        return result | {"out/loop_total": result["loss"]}

    return loop


LOOPS.update(kd=loop_of(KD), kdrefine=loop_of(KDrefine))
