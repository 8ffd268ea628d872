"""Golden cases of CRD, OFD, ReviewKD, SRRL, SemCKD, SimKD, AB, FT and FSP, all through their classes."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from adapters_loops import LOOPS
from features_b_run import Inputs, Run, loop_outputs, mdistiller_outputs, output_of, weights_of
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import nn

from pipeline.distillers.ft import factor_loss

# ---- mdistiller ------------------------------------------------------------------------------------------------------


@adapter("ofd")
def ofd(case: Case, inputs: Inputs) -> Outputs:
    h, norms = case.hyper, []
    while f"teacher.bn{len(norms)}.weight" in inputs:
        weight, bias = (inputs[f"teacher.bn{len(norms)}.{part}"].detach() for part in ("weight", "bias"))
        norms.append(nn.BatchNorm2d(len(weight), dtype=weight.dtype))
        norms[-1].load_state_dict({"weight": weight, "bias": bias}, strict=False)
    weights = {"ce_weight": h["CE_WEIGHT"], "feat_weight": h["FEAT_WEIGHT"], "kernel": h["KERNEL_SIZE"]}
    run = Run("ofd", case, inputs, {"norms": tuple(norms)}, "mdistiller", **weights)
    margins = {f"margin{i}": margin_C for i, margin_C in enumerate(run.method.margins())}
    return mdistiller_outputs(run, run.terms()) | margins


@adapter("reviewkd")
def reviewkd(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    # A list without a stem (MobileNetV1) is used whole.
    stemless = len(h["IN_CHANNELS"]) - 1 == len(output_of(inputs, "student").features)
    run = Run(
        "reviewkd", case, inputs, {}, "default", stemless_student=stemless, ce_weight=h["CE_WEIGHT"],
        feat_weight=h["REVIEWKD_WEIGHT"], warmup=h["WARMUP_EPOCHS"], student_preact=h["STU_PREACT"],
        mid_channels=h["mid"],
    )  # fmt: skip
    fusions = run.method.fusions
    # The four lists of the reference, which here come from the shapes.
    assert [f.conv1[0].in_channels for f in fusions] == h["IN_CHANNELS"][::-1]
    assert [f.conv2[0].out_channels for f in fusions] == h["OUT_CHANNELS"][::-1]
    assert [f.size[0] for f in fusions] == h["OUT_SHAPES"]
    # Our progress counts completed epochs, the reference the present one from 1.
    return mdistiller_outputs(run, run.terms(progress=float((case.epoch or 0) - 1)))


# ---- SRRL, SemCKD, SimKD ---------------------------------------------------------------------------------------------


@adapter("srrl")
def srrl(case: Case, inputs: Inputs) -> Outputs:
    on_maps = any(value.dim() == 4 for value in inputs.values())
    variant = "original" if on_maps else ("kdrefine" if case.name.startswith("kdrefine") else "simkd")
    run = Run("srrl", case, inputs, {}, variant, regression_weight=float(case.hyper.get("weight", 1.0)))
    v_BD = copy.deepcopy(run.method).adapted(run.student)
    terms = run.terms()
    feature = "out/stat_term" if on_maps else "out/feat_term"
    loss = terms["feature"] + terms["regression"]
    found = {feature: terms["feature"], "out/logit_term": terms["regression"], "loss": loss, "backward": loss}
    shown = {"out/trans": v_BD, "out/pred": run.method.classifier(v_BD)}
    return found | shown | run.after() | {"parameters": run.parameters()}


@adapter("semckd", "semckd_large")
def semckd(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    run = Run(
        "semckd", case, inputs, {"batch_size": h["batch"]}, "default", soft=h.get("soft", 1.0), feat_weight=1.0,
        kd_weight=0.0,
    )  # fmt: skip
    attention = run.method.attention(run.student, run.teacher)
    loss = run.terms()["semckd"]
    parameters = run.parameters()
    return {"out/attention": attention, "loss": loss, "backward": loss, "parameters": parameters} | run.after()


@adapter("simkd_f2", "simkd_f4", "simkd_f8")
def simkd(case: Case, inputs: Inputs) -> Outputs:
    run = Run("simkd", case, inputs, {}, "default", factor=case.hyper["factor"])
    probe, size = copy.deepcopy(run.method), run.method.size
    loss = run.terms()["simkd"]
    return {
        "out/trans_s": probe.projected(run.student),
        "out/trans_t": F.adaptive_avg_pool2d(run.teacher.features[-1], size),
        "out/logits": copy.deepcopy(run.method).predict(run.student),
        "out/n_transfer_params": torch.tensor(sum(p.numel() for p in run.method.projector.parameters())),
        "loss": loss,
        "backward": loss,
        "parameters": run.parameters(),
    } | run.after()


# ---- two-stage methods -----------------------------------------------------------------------------------------------


@adapter("ab")
def ab(case: Case, inputs: Inputs) -> Outputs:
    run = Run("ab", case, inputs, {}, "default", margin=case.hyper["margin"])
    terms_L = copy.deepcopy(run.method).boundary_terms(run.student, run.teacher)
    loss = run.method.first_stage_terms(run.student, run.teacher, run.batch)["ab"]
    return {"out/terms": terms_L, "loss": loss, "backward": loss, "parameters": run.parameters()} | run.after()


@adapter("fsp")
def fsp(case: Case, inputs: Inputs) -> Outputs:
    run = Run("fsp", case, inputs, {}, "repdistiller")
    terms_L = run.method.flow_terms(run.student.features, run.teacher.features)
    loss = run.method.first_stage_terms(run.student, run.teacher, run.batch)["fsp"]
    return {"out/terms": terms_L, "loss": loss, "backward": loss}


@adapter("ft")
def ft(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    if not case.parameter_specs:
        student, teacher = (next(v for k, v in inputs.items() if k.startswith(f"feat_{side}")) for side in "st")
        loss = factor_loss(student, teacher.detach(), h["p1"], h["p2"])
        return {"loss": loss, "backward": loss}
    first = "translator.encoder.0.weight" not in case.parameter_specs
    whole = inputs | {name.replace("feat_t", "feat_s"): value for name, value in inputs.items()} if first else inputs
    run = Run("ft", case, whole, {}, "repdistiller", k=h["k"], p1=h.get("p1", 2), p2=h.get("p2", 1), feat_weight=1.0)
    run.student, probe = run.student, copy.deepcopy(run.method)
    teacher_BCHW = run.teacher.features[-1]
    factor_t = probe.paraphraser.encoder(teacher_BCHW)
    if first:
        loss = run.method.first_stage_terms(run.student, run.teacher, run.batch)["reconstruction"]
        shown = {"out/factor": factor_t, "out/rec": probe.paraphraser(teacher_BCHW)}
    else:
        loss = run.terms()["ft"]
        shown = {"out/factor_t": factor_t, "out/factor_s": probe.translator(run.student.features[-1])}
    return {"loss": loss, "backward": loss, "parameters": run.parameters()} | shown | run.after()


# ---- whole iterations ------------------------------------------------------------------------------------------------


def loop(name: str, config: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Case, Inputs], Outputs]:
    """An iteration of a method built with `config` of the case's hyper-parameters."""

    def iterate(case: Case, inputs: Inputs) -> Outputs:
        return loop_outputs(Run(name, case, inputs, {}, "default", **config(case.hyper)))

    return iterate


def with_beta(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda h: weights_of(h) | dict.fromkeys(names, float(h["beta"]))


LOOPS["srrl"] = loop("srrl", with_beta("feat_weight", "regression_weight"))
LOOPS["semckd"] = loop("semckd", with_beta("feat_weight"))
LOOPS["simkd"] = loop(
    "simkd", lambda h: {"factor": h["factor"], "feat_weight": float(h["beta"]), "ce_weight": float(h["cls"])}
)
LOOPS["abound"] = loop("ab", weights_of)
LOOPS["fsp"] = loop("fsp", weights_of)
LOOPS["factor"] = loop("ft", with_beta("feat_weight"))
