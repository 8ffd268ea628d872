"""Golden cases of R2KD with its augmentations and pruning, MLKD, CTKD, CAT-KD and DOT."""

from typing import Any

import torch
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor, nn

from pipeline.contracts import Batch, ModelOutput, Setting, Shapes, View
from pipeline.distillers.catkd import CATKD
from pipeline.distillers.ctkd import CTKD, learned_temperature_loss
from pipeline.distillers.mlkd import MLKD
from pipeline.distillers.r2kd import R2KD, cosine, spearman
from pipeline.engine.optimizers.dot import DOT
from pipeline.teachers.pruned import prune_l1
from pipeline.utils.mixing import cutmix, cutout, entropy, mixup, most_uncertain, own_share


def output_of(logits_BK: Tensor, *features: Tensor) -> ModelOutput:
    return ModelOutput(logits_BK, logits_BK, features)


def batch_of(label_B: Tensor) -> Batch:
    return Batch(image_BCHW=label_B, label_B=label_B, index_B=label_B)


# ---- R2KD ------------------------------------------------------------------------------------------------------------


@adapter("R2KD")
def r2kd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, batch = case.hyper, batch_of(inputs["target"])
    config = R2KD.Config(
        T=h["TEMPERATURE"], ce_weight=1.0, value_weight=h["VALUE_WEIGHT"], rank_weight=h["RANK_WEIGHT"]
    )
    own = h["PRUNE_WEIGHT"]

    def seen(suffix: str) -> tuple[ModelOutput, ModelOutput]:
        plain, pruned = (inputs[f"logits_{which}{suffix}"].detach() for which in ("teacher", "pruned_teacher"))
        return output_of(inputs[f"logits_student{suffix}"]), output_of(own * plain + (1 - own) * pruned)

    student, teacher = seen("")
    views = [View(*seen("_aug"), batch)] if "logits_student_aug" in inputs else []
    terms = R2KD(config)(student, teacher, batch, torch.zeros(()), *views)
    p_BK, q_BK = ((z.logits_BK / config.T).softmax(dim=1) for z in (student, teacher))
    total = torch.stack([term.double() for term in terms.values()]).sum()
    return {
        "value_part_clean": terms["value"],
        "rank_part_clean": terms["rank"],
        "spearman_per_sample": spearman(student.logits_BK, teacher.logits_BK),
        "abs_cosine_per_sample": cosine(p_BK, q_BK).abs(),
        "loss_ce": terms["ce"],
        "loss_kd": total - terms["ce"],
        "total": total,
        "backward": total,
    }


def drawn_box(centre: tuple[int, int], sides: tuple[int, int], limits: tuple[int, int]) -> Tensor:
    """The references' box: half a side to either side of the centre, clipped to the image."""
    starts = [min(max(c - s // 2, 0), limit) for c, s, limit in zip(centre, sides, limits, strict=True)]
    stops = [min(max(c + s // 2, 0), limit) for c, s, limit in zip(centre, sides, limits, strict=True)]
    return torch.tensor([*starts, *(stop - start for start, stop in zip(starts, stops, strict=True))])


def mixed_by(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """CutMix by the case's draws: the images, and the share of their own pixels."""
    image_BCHW = inputs["image"].detach()
    height, width = image_BCHW.shape[2:]
    cut = (1.0 - inputs["drawn_lambda"].item()) ** 0.5
    down, right = inputs["drawn_ints"].tolist()
    box = drawn_box((down, right), (int(height * cut), int(width * cut)), (height, width))
    return cutmix(image_BCHW, image_BCHW[inputs["drawn_permutation"]], box), own_share(box, height, width)


def image_outputs(image_BCHW: Tensor, **more: Tensor) -> Outputs:
    return {
        "image_out": image_BCHW,
        "image_out_sample_stride37": image_BCHW.flatten()[::37],
        "image_out_sum": image_BCHW.double().sum(),
    } | more


@adapter("R2KD augmentation mixup")
def r2kd_mixup(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    image_BCHW, weight = inputs["image"].detach(), inputs["drawn_lambda"].detach()[0]
    mixed_BCHW = mixup(image_BCHW, image_BCHW[inputs["drawn_permutation"]], weight)
    return image_outputs(mixed_BCHW, lambda_returned=weight)


@adapter("R2KD augmentation cutmix")
def r2kd_cutmix(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    mixed_BCHW, weight = mixed_by(inputs)
    return image_outputs(mixed_BCHW, lambda_returned=weight)


@adapter("R2KD augmentation cutmixpick")
def r2kd_cutmixpick(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    mixed_BCHW, weight = mixed_by(inputs)
    rows = most_uncertain(entropy(inputs["teacher_logits"].detach()), R2KD.Config().pick)
    return image_outputs(mixed_BCHW[rows], lambda_returned=weight)


@adapter("R2KD augmentation cutout_cifar100", "R2KD augmentation cutout_tiny_imagenet")
def r2kd_cutout(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    image_BCHW, side = inputs["image"].detach(), case.hyper["cutout_length"]
    height, width = image_BCHW.shape[2:]
    down, right = inputs["drawn_ints"].tolist()
    return image_outputs(cutout(image_BCHW, drawn_box((down, right), (side, side), (height, width))))


def layer_of(weight: Tensor, *, bias: bool) -> nn.Module:
    if weight.ndim == 4:
        return nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=bias)
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias) if weight.ndim == 2 else nn.BatchNorm2d(len(weight))


@adapter("R2KD pruning")
def r2kd_prune(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    layers = {name.split(".")[0] for name in inputs}
    weights = {key: inputs[f"{key}.weight"] for key in layers}
    network = nn.ModuleDict({key: layer_of(w, bias=f"{key}.bias" in inputs) for key, w in weights.items()})
    network.load_state_dict({name: tensor.detach() for name, tensor in inputs.items()}, strict=False)
    pruned = prune_l1(network, case.hyper["RATE"])
    heavy = [m.weight for m in pruned.values() if isinstance(m, nn.Conv2d | nn.Linear)]
    counts = [sum(w.numel() for w in heavy), sum(int(w.count_nonzero()) for w in heavy)]
    return {f"after/{name}": p for name, p in pruned.named_parameters()} | {"count_total_nonzero": torch.tensor(counts)}


# ---- MLKD and CTKD ---------------------------------------------------------------------------------------------------


@adapter("MLKD", "LSKD-MLKD")
def mlkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, batch = case.hyper, batch_of(inputs["target"])
    config = MLKD.Config(
        T=float(h["TEMPERATURE"]),
        further_T=tuple(float(T) for T in h["other_T"]),
        ce_weight=h["CE_WEIGHT"],
        kd_weight=h["KD_WEIGHT"],
        standardise=h.get("LOGIT_STAND", False),
    )

    def seen(suffix: str) -> tuple[ModelOutput, ModelOutput]:
        return output_of(inputs[f"logits_student{suffix}"]), output_of(inputs[f"logits_teacher{suffix}"].detach())

    terms = MLKD(config, None, "original")(*seen(""), batch, torch.zeros(()), View(*seen("_strong"), batch))
    total = torch.stack(list(terms.values())).sum()
    names = {"loss_ce": "ce", "loss_kd": "kd", "loss_cc": "class", "loss_bc": "batch"}
    return {name: terms[ours] for name, ours in names.items()} | {"total": total, "backward": total}


@adapter("CTKD", "LSKD-CTKD")
def ctkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h, batch = case.hyper, batch_of(inputs["target"])
    config = CTKD.Config(
        t_start=float(h["t_start"]),
        t_range=float(h["t_end"]),
        decay_first=float(h["decay_max"]),
        decay_last=float(h["decay_min"]),
        decay_loops=h["decay_loops"],
        ce_weight=h["gamma_ce"],
        kd_weight=h["alpha_kd"],
        standardise=h.get("LOGIT_STAND", False),
    )
    student_BK, teacher_BK = inputs["logits_student"], inputs["logits_teacher"].detach()
    method = CTKD(config).to(student_BK.dtype)
    nn.init.constant_(method.global_T, h["global_T"])
    assert case.epoch is not None
    progress = student_BK.new_tensor(case.epoch - 1)  # epoch 1 is under way when none is completed
    terms = method(output_of(student_BK), output_of(teacher_BK), batch, progress)
    factor = method.gradient_factor(progress)
    T_1 = method.temperature(factor)
    compared = method.compared(output_of(student_BK)), method.compared(output_of(teacher_BK))
    total = terms["ce"] + terms["kd"]
    return {
        "lambda": factor,
        "temperature": T_1,
        "kd_unweighted": learned_temperature_loss(*compared, T_1),
        "loss_ce": terms["ce"],
        "loss_kd": terms["kd"],
        "total": total,
        "backward": total,
        "grad/global_T": torch.autograd.grad(total, method.global_T, retain_graph=True)[0],
    }


# ---- CAT-KD ----------------------------------------------------------------------------------------------------------

STRATEGIES = {0: "top", 1: "lowest"}


def cat_config(h: dict[str, Any]) -> CATKD.Config:
    return CATKD.Config(
        ce_weight=0.0 if h["onlyCAT"] else h["CE_WEIGHT"],
        cat_weight=h["CAT_loss_weight"],
        side=h["CAM_RESOLUTION"],
        normalise=h["IF_NORMALIZE"],
        binarise=h["IF_BINARIZE"],
        classes=STRATEGIES[h["Strategy"]] if h["IF_OnlyTransferPartialCAMs"] else "all",  # type: ignore[arg-type]
        class_count=h["CAMs_Nums"],
    )


@adapter("CAT-KD")
def catkd(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    student = output_of(inputs["student.logits"], inputs["student.cam"])
    teacher = output_of(inputs["teacher.logits"].detach(), inputs["teacher.cam"].detach())
    shapes = [Shapes(o.logits_BK.shape[1], 1, (tuple(o.features[0].shape[1:]),)) for o in (student, teacher)]
    method = CATKD(cat_config(case.hyper), Setting(student=shapes[0], teacher=shapes[1]), "original")
    terms = method(student, teacher, batch_of(inputs["target"]), torch.zeros(()))
    total = torch.stack(list(terms.values())).sum()
    found = {"loss_CAT": terms["cat"], "total": total, "backward": total}
    return found | ({"loss_CE": terms["ce"]} if "ce" in terms else {})


# ---- DOT -------------------------------------------------------------------------------------------------------------


@adapter("DOT trainer optimiser")
def dot(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    h = case.hyper
    low, high = h["momentum_task"], h["momentum_kd"]
    leaves = {name: tensor.detach().clone() for name, tensor in inputs.items() if not name.startswith("grad.")}
    optimizer = DOT(
        leaves.values(), h["lr"], momentum=(low + high) / 2, delta=(high - low) / 2, weight_decay=h["weight_decay"]
    )
    outputs: Outputs = {}
    for step in range(1 + max(int(name.split(".")[1][4:]) for name in inputs if name.startswith("grad."))):
        optimizer.param_groups[0]["lr"] = h.get(f"lr_step{step}", h["lr"])
        task, distill = (
            [None if (g := inputs.get(f"grad.step{step}.{kind}.{name}")) is None else g.detach() for name in leaves]
            for kind in ("task", "kd")
        )
        optimizer.give(task, distill)
        optimizer.step()
        outputs |= {f"after_step{step}.{name}": leaf.clone() for name, leaf in leaves.items()}
    for name, leaf in leaves.items():
        outputs |= {f"buffer.{name}.{key}": value for key, value in optimizer.state[leaf].items()}
    return outputs
