"""Golden cases of CRD: two steps in a row on banks that the case gives, and whole iterations."""

import zlib
from typing import Any

import numpy as np
import torch
from adapters_loops import LOOPS
from features_b_run import Inputs, Run, loop_outputs, mdistiller_outputs, weights_of
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor, nn

from pipeline.distillers.common.maps import unit_rows


class Given(nn.Module):
    """Negatives of a case in place of drawn ones."""

    def __init__(self, place_BJ: Tensor) -> None:
        super().__init__()
        self.place_BJ = place_BJ

    def forward(self, index_B: Tensor, label_B: Tensor, step: Tensor) -> Tensor:
        return self.place_BJ[:, 1:]


def give(run: Run, index_B: Tensor, place_BJ: Tensor) -> None:
    """The rows of the next step: the batch's own, and those that it is scored against."""
    run.batch.index_B = index_B
    run.method.negatives = Given(place_BJ)
    run.method.positives = lambda *_: place_BJ[:, 0]


def crd_run(case: Case, inputs: Inputs, samples: int, place_BJ: Tensor, **config: Any) -> Run:
    setting = {"label_N": torch.arange(samples) % 4}
    return Run("crd", case, inputs, setting, "original", K=place_BJ.shape[1] - 1, **config)


def fill_banks(run: Run) -> None:
    """RepDistiller's cases start from banks by a rule."""
    for side, bank_ND in (("v1", run.method.memory_student), ("v2", run.method.memory_teacher)):
        state = np.random.RandomState(zlib.crc32(f"crd.memory_{side}".encode()) & 0xFFFFFFFF)
        bound = 1 / np.sqrt(bank_ND.shape[1] / 3)
        values = (state.random_sample(tuple(bank_ND.shape)) * 2 * bound - bound).astype(np.float32)
        bank_ND.copy_(torch.from_numpy(values))


@adapter("CRD")
def mdistiller_crd(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    run = crd_run(
        case, inputs, h["num_data"], inputs["contrast_index"], dim=h["DIM"], nce_T=h["TEMPERATURE"],
        momentum=h["MOMENTUM"], ce_weight=h["CE_WEIGHT"], feat_weight=h["FEAT_WEIGHT"],
    )  # fmt: skip
    give(run, inputs["index"], inputs["contrast_index"])
    run.method.memory_student.copy_(inputs["memory_v1"].detach())
    run.method.memory_teacher.copy_(inputs["memory_v2"].detach())
    outputs: Outputs = {}
    for step in ("step1", "step2"):
        outputs |= {f"{step}.{name}": value for name, value in crd_step(run, inputs).items()}
    return {re_keyed(name): value for name, value in outputs.items()}


def crd_step(run: Run, inputs: Inputs) -> dict[str, Tensor]:
    """One step's terms, gradients (marked grad/) and the state that it leaves."""
    found = mdistiller_outputs(run, run.terms())
    total, parameters = found.pop("backward"), found.pop("parameters")
    leaves = {name: inputs[name] for name in ("student.pooled", "student.logits")}
    leaves |= {f"param:{key}": leaf for key, leaf in parameters.items()}
    gradients = torch.autograd.grad(total, list(leaves.values()))
    found |= {f"grad/{name}": g for name, g in zip(leaves, gradients, strict=True)}
    rows = run.batch.index_B
    # Side v1 is the student's embedding, scored against the teacher's bank.
    for i, (side, bank_ND) in enumerate((("v1", run.method.memory_student), ("v2", run.method.memory_teacher))):
        found |= {f"Z_{side}": run.method.normaliser_2[i].clone(), f"memory_{side}_rows_at_index": bank_ND[rows]}
    return found


def re_keyed(name: str) -> str:
    """step1.grad/x -> grad/step1.x."""
    step, _, rest = name.partition(".")
    return f"grad/{step}.{rest[5:]}" if rest.startswith("grad/") else name


@adapter("crd")
def repdistiller_crd(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    if "probs" in h:
        return alias_outputs(h["probs"], h["uniform"])
    run = crd_run(
        case, inputs, h["n_data"], inputs["cidx"], dim=h["feat_dim"], nce_T=h["nce_t"], momentum=h["nce_m"],
        feat_weight=1.0,
    )  # fmt: skip
    # This reference in float64 keeps its temperature in float64 too.
    run.method.temperature.fill_(h["nce_t"])
    fill_banks(run)
    outputs: Outputs = {
        "out/emb_s": unit_rows(run.method.embed_student(run.student.pooled_BD)),
        "out/emb_t": unit_rows(run.method.embed_teacher(run.teacher.pooled_BD)),
        "parameters": run.parameters(),
    }
    for step, suffix in ((1, ""), (2, "2")):
        index_B = inputs[f"idx{suffix}"]
        give(run, index_B, inputs[f"cidx{suffix}"])
        outputs[f"out/step{step}_loss"] = run.terms()["crd"].reshape(1)
        outputs[f"out/mem1_rows_after{step}"] = run.method.memory_student[index_B]
        outputs[f"out/mem2_rows_after{step}"] = run.method.memory_teacher[index_B]
    loss = outputs["out/step1_loss"].reshape(())
    return outputs | {"out/Z": run.method.normaliser_2, "loss": loss, "backward": loss}


def alias_outputs(weights: list[float], uniform: int) -> Outputs:
    """The alias tables of a sampler that no published training ever reaches; our draws need none."""
    even = alias_tables([1.0 / uniform] * uniform)
    given = alias_tables([w / sum(weights) for w in weights])
    names = ("out/prob", "out/alias", "out/uni_prob", "out/uni_alias")
    return dict(zip(names, (*given, *even), strict=True))


def alias_tables(share_K: list[float]) -> tuple[Tensor, Tensor]:
    """Walker's alias method: (probability of keeping the drawn entry, entry taken otherwise), last in first out."""
    left = [share * len(share_K) for share in share_K]
    alias = [0] * len(left)
    small = [i for i, x in enumerate(left) if x < 1.0]
    large = [i for i, x in enumerate(left) if x >= 1.0]
    kept = list(left)
    while small and large:
        poor, rich = small.pop(), large.pop()
        kept[poor], alias[poor] = left[poor], rich
        left[rich] = left[rich] - 1.0 + left[poor]
        (small if left[rich] < 1.0 else large).append(rich)
    for rest in small + large:
        kept[rest] = 1.0
    return torch.tensor(kept, dtype=torch.float64), torch.tensor(alias)


def crd_loop(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    samples, K = h.get("n_data/nce_k for crd", [40, 16])
    rows = len(inputs["target"])
    state = np.random.RandomState(zlib.crc32(b"loops.cidx") & 0xFFFFFFFF)
    index_B = torch.arange(rows)
    place_BJ = torch.cat([index_B[:, None], torch.from_numpy(state.randint(0, samples, (rows, K)))], dim=1)
    dim = case.parameter_specs["embed_s.linear.weight"][0]
    run = crd_run(case, inputs, samples, place_BJ, dim=dim, feat_weight=h["beta"], **weights_of(h))
    give(run, index_B, place_BJ)
    fill_banks(run)
    return loop_outputs(run)


LOOPS["crd"] = crd_loop
