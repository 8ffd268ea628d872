"""A method of the second feature group built for a golden case: outputs, shapes and parameters of either manifest."""

import re
from typing import Any

import torch
from golden_adapters import Outputs
from golden_cases import DTYPES, Case
from torch import Tensor, nn

from pipeline.contracts import Batch, Distiller, ModelOutput, Setting, Shapes
from pipeline.distillers import DISTILLERS

Inputs = dict[str, Tensor]
# Our name for a reference's parameter; what matches nothing (layers that never take part) is not ours.
OURS = (
    (r"connectors\.connectors\.(\d+)\.(.*)", r"connectors.\1.\2"),
    (r"abfs\.(\d+)\.att_conv\.0\.(.*)", r"fusions.\1.attention.\2"),
    (r"abfs\.(\d+)\.(conv.*)", r"fusions.\1.\2"),
    (r"embed_s\.linear\.(.*)", r"embed_student.\1"),
    (r"embed_t\.linear\.(.*)", r"embed_teacher.\1"),
    (r"(?:srrl\.transfer|conector\.Connectors)\.(.*)", r"adaptor.\1"),
    (r"cls_t\.(.*)", r"classifier.\1"),
    (r"sem\.query_(\d+)\.(linear.*)", r"queries.\1.\2"),
    (r"sem\.key_(\d+)\.(linear.*)", r"keys.\1.\2"),
    (r"sem\.regressor(\d)(\d)\.regressor\.(.*)", r"regressors.\1.\2.\3"),
    (r"simkd\.transfer\.(.*)", r"projector.\1"),
    (r"connector\.connectors\.(\d+)\.conv\.(.*)", r"connectors.\1.0.\2"),
    (r"connector\.connectors\.(\d+)\.bn\.(.*)", r"connectors.\1.1.\2"),
    (r"(paraphraser\..*)", r"\1"),
    (r"translator\.encoder\.(.*)", r"translator.\1"),
)


def our_name(key: str) -> str | None:
    """The name in our class of a reference's parameter or BN statistic."""
    found = (re.sub(pattern, ours, key) for pattern, ours in OURS if re.fullmatch(pattern, key))
    return next(found, None)


def levels(maps: dict[int, Tensor]) -> tuple[Tensor, ...]:
    """Maps by level from 0; levels that the case leaves out hold one zero per sample."""
    if not maps:
        return ()
    blank_B111 = next(iter(maps.values())).new_zeros((len(next(iter(maps.values()))), 1, 1, 1)).detach()
    return tuple(maps.get(i, blank_B111) for i in range(max(maps) + 1))


def output_of(inputs: dict[str, Tensor], side: str) -> ModelOutput:
    """What the network `side` (student, teacher) gave; what the case leaves out is made up of zeros or means."""
    found: dict[str, dict[int, Tensor]] = {"feats": {}, "preact": {}, "pooled": {}, "logits": {}}
    for name, value in inputs.items():
        ours = re.fullmatch(rf"{side}\.(\w+)(?:\.(\d+))?", name)
        theirs = re.fullmatch(rf"(feat|logit)_{side[0]}(?:/.*?(\d+)?)?", name)
        if ours and ours[1] in found:
            found[ours[1]][int(ours[2] or 0)] = value
        elif theirs:
            kind = {4: "feats", 2: "pooled"}[value.dim()] if theirs[1] == "feat" else "logits"
            found[kind][int(theirs[2] or 0) if value.dim() == 4 else 0] = value
    rows = len(next(iter(inputs.values())))
    real = next(value for value in inputs.values() if value.is_floating_point())
    feats = levels(found["feats"])
    pooled_BD = found["pooled"].get(0, feats[-1].mean(dim=(2, 3)) if feats else real.new_zeros((rows, 1)).detach())
    logits_BK = found["logits"].get(0, real.new_zeros((rows, 2)).detach())
    return ModelOutput(logits_BK, pooled_BD, feats, levels(found["preact"]))


def stopped(output: ModelOutput) -> ModelOutput:
    """The teacher's output as live teachers give it: without a graph."""
    logits_BK, pooled_BD, features, preact = output
    maps = (tuple(m.detach() for m in part) for part in (features, preact))
    return ModelOutput(logits_BK.detach(), pooled_BD.detach(), *maps)


def shapes_of(output: ModelOutput) -> Shapes:
    features, preact = (tuple(tuple(m.shape[1:]) for m in part) for part in (output.features, output.preact_features))
    return Shapes(output.logits_BK.shape[1], output.pooled_BD.shape[1], features, preact)


class Run:
    """A method with a case's parameters and inputs. All own parameters carry a gradient, the frozen ones too."""

    def __init__(
        self, name: str, case: Case, inputs: dict[str, Tensor], setting: dict[str, Any], variant: str, **config: Any
    ) -> None:
        self.case, self.inputs = case, inputs
        self.student, teacher = output_of(inputs, "student"), output_of(inputs, "teacher")
        self.teacher = stopped(teacher)
        real = self.student.pooled_BD if self.student.pooled_BD.shape[1] > 1 else self.teacher.pooled_BD
        precision = next(name for name, dtype in DTYPES.items() if dtype == real.dtype)
        values = {k: v.detach() for k, v in case.parameters(precision).items()}
        if "cls_t.weight" in values:
            classes, width = values["cls_t.weight"].shape
            setting = setting | {"classifier": nn.Linear(width, classes)}
        rows = len(self.student.logits_BK)
        given = {"batch_size": rows} | setting
        kind = DISTILLERS.get(name)
        whole = Setting(student=shapes_of(self.student), teacher=shapes_of(teacher), **given)
        self.method: Distiller = kind(kind.Config(**config), whole, variant).to(real.dtype)
        self.names = {key: ours for key in values if (ours := our_name(key))}
        known = self.method.state_dict()
        state = {ours: values[key] for key, ours in self.names.items() if ours in known}
        assert not self.method.load_state_dict(state, strict=False).unexpected_keys
        self.method.requires_grad_(True)
        self.method.train(case.hyper.get("mode", "train") == "train")
        label_B = inputs.get("target", torch.zeros(rows, dtype=torch.int64))
        index_B = inputs.get("index", inputs.get("idx", torch.arange(rows)))
        self.batch = Batch(image_BCHW=real, label_B=label_B, index_B=index_B)

    def terms(self, progress: float = 0.0) -> dict[str, Tensor]:
        return self.method(self.student, self.teacher, self.batch, torch.tensor(progress, dtype=torch.float64))

    def parameters(self) -> dict[str, Tensor]:
        """Our leaves by the reference's keys."""
        own = dict(self.method.named_parameters())
        return {key: own[ours] for key, ours in self.names.items() if ours in own}

    def after(self) -> dict[str, Tensor]:
        """after/KEY of the reference's running statistics."""
        own = dict(self.method.named_buffers())
        return {f"after/{key}": own[ours].clone() for key, ours in self.names.items() if ours in own}


def total_of(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([term.reshape(()) for term in terms.values()]).sum()


def mdistiller_outputs(run: Run, terms: dict[str, Tensor]) -> Outputs:
    """Both terms at their weights and their sum."""
    total = total_of(terms)
    kd = total_of({name: term for name, term in terms.items() if name != "ce"})
    return {
        "loss_ce": terms["ce"], "loss_kd": kd, "total": total, "backward": total, "parameters": run.parameters()
    }  # fmt: skip


def weights_of(h: dict[str, Any]) -> dict[str, Any]:
    """RepDistiller's gamma, alpha and SimKD's cls, div."""
    return {"ce_weight": h.get("gamma", h.get("cls")), "kd_weight": h.get("alpha", h.get("div")), "T": h["T"]}


def loop_outputs(run: Run) -> Outputs:
    total = total_of(run.terms())
    return {"loss": total, "out/loop_total": total, "backward": total, "parameters": run.parameters()}
