"""Golden cases of FitNet, AT, SP, CC, VID, RKD, PKT, NST and KDSVD, all through their classes."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from adapters_loops import LOOPS
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.singular import right_vectors
from pipeline.distillers.kdsvd import SPARE, pixels_by_channels
from pipeline.distillers.vid import VID, start_of

# Our parameter for a reference's key: of RepDistiller and SimKD, then of mdistiller.
OURS = (
    (r"(?:regress_s|conv_reg)\.(.*)", r"regressor.\1"),
    (r"embed_([st])\.linear\.(.*)", r"embed_\1.\2"),
    (r"vid\.(\d+)\.regressor\.(.*)", r"regressors.\1.\2"),
    (r"vid\.(\d+)\.log_scale", r"log_scales.\1"),
    (r"(regressors\..*)", r"\1"),
)


@dataclass(frozen=True)
class Side:
    """What one network gave: a map for each level (None where the case has none), pooled vectors and logits."""

    maps: dict[int, Tensor]
    pooled_BD: Tensor
    logits_BK: Tensor

    def output(self) -> ModelOutput:
        """Levels that the case leaves out are maps of one zero."""
        blank_BCHW = self.logits_BK.new_zeros((len(self.logits_BK), 1, 1, 1))
        levels = range(max(self.maps, default=-1) + 1)
        return ModelOutput(self.logits_BK, self.pooled_BD, tuple(self.maps.get(i, blank_BCHW) for i in levels))

    def shapes(self) -> Shapes:
        features = tuple(tuple(f.shape[1:]) for f in self.output().features)
        return Shapes(self.logits_BK.shape[1], self.pooled_BD.shape[1], features)


def side_of(inputs: dict[str, Tensor], name: str) -> Side:
    """'student' or 'teacher' of either manifest's inputs: student.feats.2, student.pooled, feat_s/PAIR/2, logit_s."""
    start, maps, found = f"feat_{name[0]}/", {}, {}
    any_tensor = next(iter(inputs.values()))
    for key, value in inputs.items():
        if key.startswith((start, f"{name}.feats")):
            level = re.search(r"[./](\d+)$", key)
            if value.dim() == 4:
                maps[int(level[1]) if level else 1] = value
            else:
                found["pooled"] = value
        elif key in (f"{name}.pooled", f"{name}.logits") or key.startswith(f"logit_{name[0]}"):
            found["pooled" if key.endswith("pooled") else "logits"] = value
    blank = (next(iter(maps.values())) if maps else found.get("pooled", any_tensor)).new_zeros
    rows = len(any_tensor)
    return Side(maps, found.get("pooled", blank((rows, 1))), found.get("logits", blank((rows, 2))))


def stopped(output: ModelOutput) -> ModelOutput:
    """The teacher's output, which never carries a gradient."""
    logits_BK, pooled_BD, features, _ = output
    return ModelOutput(logits_BK.detach(), pooled_BD.detach(), tuple(f.detach() for f in features))


def our_name(key: str) -> str | None:
    """The name in our class of a reference's parameter, None for what is not the method's (cls_t)."""
    for pattern, ours in OURS:
        if re.fullmatch(pattern, key):
            return (
                re.sub(pattern, ours, key).replace("embed_s.", "embed_student.").replace("embed_t.", "embed_teacher.")
            )
    return None


class Run:
    """A method built for a case, with the reference's parameters, and its terms."""

    def __init__(self, name: str, variant: str, case: Case, inputs: dict[str, Tensor], **config: Any) -> None:
        student, teacher = side_of(inputs, "student"), side_of(inputs, "teacher")
        self.student, self.teacher = student.output(), stopped(teacher.output())
        dtype = student.logits_BK.dtype
        kind = DISTILLERS.get(name)
        setting = Setting(student=student.shapes(), teacher=teacher.shapes())
        self.method: Distiller = kind(kind.Config(**config), setting, variant).to(dtype)
        self.names = {key: ours for key in case.parameter_specs if (ours := our_name(key))}
        values = case.parameters("f64" if dtype == torch.float64 else "f32")
        state = {ours: values[key].detach() for key, ours in self.names.items()}
        missing = self.method.load_state_dict(state, strict=False)
        assert not missing.unexpected_keys, missing
        label_B = inputs.get("target", torch.zeros(len(student.logits_BK), dtype=torch.int64))
        self.batch = Batch(image_BCHW=student.logits_BK, label_B=label_B, index_B=label_B)

    def terms(self, progress: float = 0.0) -> dict[str, Tensor]:
        return self.method(self.student, self.teacher, self.batch, torch.tensor(progress))

    def parameters(self) -> dict[str, Tensor]:
        """The reference's keys to our parameters."""
        own = dict(self.method.named_parameters())
        return {key: own[ours] for key, ours in self.names.items() if ours in own}

    def buffers(self) -> dict[str, Tensor]:
        """after/KEY of the reference's buffers."""
        own = dict(self.method.named_buffers())
        return {f"after/{key}": own[ours] for key, ours in self.names.items() if ours in own}


def mdistiller_case(name: str, case: Case, inputs: dict[str, Tensor], **config: Any) -> Outputs:
    """Both terms at their weights and their sum."""
    h = case.hyper
    run = Run(
        name, "mdistiller", case, inputs, ce_weight=h["CE_WEIGHT"], feat_weight=h["FEAT_WEIGHT"], **config
    )  # fmt: skip
    terms = run.terms()
    total = terms["ce"] + terms[name]
    parameters = run.parameters()
    return {"loss_ce": terms["ce"], "loss_kd": terms[name], "total": total, "backward": total, "parameters": parameters}


def repdistiller_case(name: str, case: Case, inputs: dict[str, Tensor], **config: Any) -> Outputs:
    """The method's own term at weight 1, and what it is the sum of."""
    run = Run(name, "repdistiller", case, inputs, feat_weight=1.0, **config)
    run.method.train(case.hyper.get("mode") != "eval")
    loss = run.terms()[name]
    outputs: Outputs = {"loss": loss, "backward": loss, "parameters": run.parameters(), **run.buffers()}
    if hasattr(run.method, "stage_terms"):
        outputs["out/terms"] = run.method.stage_terms(run.student, run.teacher)
    return outputs


def by_manifest(name: str, hyper: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[..., Outputs]:
    """An adapter for both manifests (capitals are mdistiller's); hyper: their hyper-parameters as our Config."""

    def run(case: Case, inputs: dict[str, Tensor]) -> Outputs:
        of_manifest = mdistiller_case if "CE_WEIGHT" in case.hyper else repdistiller_case
        return of_manifest(name, case, inputs, **hyper(case.hyper))

    return run


adapter("at")(by_manifest("at", lambda h: {"p": h.get("P", h.get("p"))}))
adapter("nst")(by_manifest("nst", lambda h: {}))
adapter("pkt")(by_manifest("pkt", lambda h: {"eps": h["eps"]}))


@adapter("rkd")
def rkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    def weights(h: dict[str, Any]) -> dict[str, float]:
        distance, angle = h.get("DISTANCE_WEIGHT", h.get("w_d")), h.get("ANGLE_WEIGHT", h.get("w_a"))
        return {"distance_weight": float(distance), "angle_weight": float(angle)}

    return by_manifest("rkd", weights)(case, inputs)


@adapter("sp")
def sp(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    outputs = by_manifest("sp", lambda h: {})(case, inputs)
    return outputs | {"out/terms": outputs["backward"].reshape(1)}


def embedding(case: Case) -> dict[str, int]:
    """Width of CC's embeddings, from the shape of the reference's."""
    shape = case.parameter_specs.get("embed_s.linear.weight")
    return {} if shape is None else {"embed_dim": shape[0]}


@adapter("cc")
def cc(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    run = Run("cc", "repdistiller", case, inputs, feat_weight=1.0, **embedding(case))
    embedded = {
        "out/emb_s": run.method.embed_student(run.student.pooled_BD),
        "out/emb_t": run.method.embed_teacher(run.teacher.pooled_BD),
    }
    loss = run.terms()["cc"]
    return {"loss": loss, "backward": loss, "parameters": run.parameters()} | embedded


@adapter("fitnet")
def fitnet(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    outputs = by_manifest("fitnet", lambda h: {"hint_layer": h.get("HINT_LAYER", h.get("hint_layer", 1))})(case, inputs)
    if "CE_WEIGHT" not in case.hyper:
        # Buffers of the method have already moved: the prediction in training mode does not depend on them.
        run = Run("fitnet", "repdistiller", case, inputs, hint_layer=case.hyper.get("hint_layer", 1))
        run.method.train(case.hyper.get("mode") != "eval")
        outputs["out/pred"] = run.method.regressor(run.student.features[run.method.config.hint_layer])
    return outputs


@adapter("vid")
def vid(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    if inputs:
        return by_manifest(
            "vid",
            lambda h: {
                "init_variance": h.get("INIT_PRED_VAR", h.get("init_pred_var")), "eps": h.get("EPS", h.get("eps"))
            },
        )(case, inputs)  # fmt: skip
    channels = len(case.expected("f64")["out/log_scale_init"])
    start = start_of(case.hyper["init_pred_var"], VID.Config().eps)
    return {"out/log_scale_init": torch.full((channels,), start, dtype=torch.float64)}


@adapter("kdsvd")
def kdsvd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    outputs = by_manifest("kdsvd", lambda h: {"k": h.get("K", h.get("k"))})(case, inputs)
    if "CE_WEIGHT" not in case.hyper:
        for i in range(len(side_of(inputs, "student").maps)):
            outputs |= singular_vectors(case, inputs, i)
    return outputs


def singular_vectors(case: Case, inputs: dict[str, Tensor], i: int) -> Outputs:
    """The vectors of the i-th stage as the library gives them."""
    k = case.hyper["k"]
    student, teacher = side_of(inputs, "student").maps[i + 1], side_of(inputs, "teacher").maps[i + 1]
    return {
        f"out/v_s_{i}": right_vectors(pixels_by_channels(student), k + SPARE)[0],
        f"out/v_t_{i}": right_vectors(pixels_by_channels(teacher), k)[0],
    }


def loop(name: str) -> Callable[..., Outputs]:
    """One iteration of RepDistiller's (gamma, alpha, beta) or SimKD's (cls, div, beta) own loop."""

    def run(case: Case, inputs: dict[str, Tensor]) -> Outputs:
        h = case.hyper
        variant = {"rep": "repdistiller", "sim": "simkd"}[case.name.split("_")[0]]
        kind = DISTILLERS.get(name)
        chosen = {"hint_layer": h["hint_layer"]} if "hint_layer" in kind.Config.__dataclass_fields__ else {}
        weights = {
            "ce_weight": h.get("gamma", h.get("cls")), "kd_weight": h.get("alpha", h.get("div")), "T": h["T"]
        }  # fmt: skip
        variant = variant if variant in kind.variants else "default"
        built = Run(name, variant, case, inputs, feat_weight=h["beta"], **weights, **chosen, **embedding(case))
        total = torch.stack(list(built.terms().values())).sum()
        return {"loss": total, "out/loop_total": total, "backward": total, "parameters": built.parameters()}

    return run


LOOPS.update({"hint": loop("fitnet"), "attention": loop("at"), "similarity": loop("sp"), "correlation": loop("cc")})
LOOPS.update({name: loop(name) for name in ("vid", "rkd", "pkt", "nst", "kdsvd")})
