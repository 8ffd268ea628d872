"""Golden cases of IRG, HKD, TTM and WTTM, and of the loops of the two repositories that they come from."""

from collections.abc import Callable
from typing import Any

import torch
from adapters_features_a import Run
from adapters_logits_a import given, terms_of, totalled
from adapters_loops import LOOPS
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor

from pipeline.distillers.common.combined import Combined
from pipeline.distillers.kd import KD
from pipeline.distillers.ttm import TTM
from pipeline.distillers.wttm import WTTM

Inputs = dict[str, Tensor]
Hyper = dict[str, Any]


def own_term(name: str, run: Run, epoch: float = 0.0) -> Outputs:
    """The method's term in an epoch that counts from 0."""
    loss = run.terms(epoch)[name]
    return {"loss": loss, "backward": loss}


@adapter("irg")
def irg(case: Case, inputs: Inputs) -> Outputs:
    h = case.hyper
    weights = {"feat_weight": float(h["w_graph"]), "transform_weight": float(h["w_transform"])}
    return own_term("irg", Run("irg", "semckd", case, inputs, **weights))


def fading(h: Hyper) -> Hyper:
    return {"init_weight": float(h["init_weight"]), "decay": float(h["decay"])}


@adapter("hkd")
def hkd(case: Case, inputs: Inputs) -> Outputs:
    """SemCKD's form drops the last stages of the longer list, the authors' zip from the last layer the first ones."""
    variant = {"semckd": "semckd", "authors": "aligned"}[case.hyper["form"]]
    run = Run("hkd", variant, case, inputs, feat_weight=1.0, **fading(case.hyper))
    terms_L = run.method.stage_terms(run.student, run.teacher)
    return own_term("hkd", run, float(case.hyper.get("epoch", 0))) | {"out/terms": terms_L}


def logits_case(kind: Any) -> Callable[[Case, Inputs], Outputs]:
    """A loss on logits alone at weight 1; inputs may be called after their number of classes."""

    def run(case: Case, inputs: Inputs) -> Outputs:
        named = {name.partition("/")[0]: value for name, value in inputs.items()}
        labelled = {"target": torch.zeros(len(named["logit_s"]), dtype=torch.int64)} | named
        terms = terms_of(kind(kind.Config(gamma=float(case.hyper["l"]), kd_weight=1.0)), given(labelled), None)
        return {"loss": terms["kd"], "backward": terms["kd"]}

    return run


adapter("ttm")(logits_case(TTM))
adapter("wttm")(logits_case(WTTM))


# ---- whole iterations ------------------------------------------------------------------------------------------------


def semckd_loop(name: str, hyper: Callable[[Hyper], Hyper]) -> Callable[[Case, Inputs], Outputs]:
    """gamma * cross-entropy + alpha * KD + beta * the method's term."""

    def run(case: Case, inputs: Inputs) -> Outputs:
        h = case.hyper
        weights = {"ce_weight": float(h["gamma"]), "kd_weight": float(h["alpha"]), "T": float(h["T"])}
        built = Run(name, "semckd", case, inputs, feat_weight=float(h["beta"]), **weights, **hyper(h))
        return looped(built.terms())

    return run


def ttm_loop(kind: Any, name: str) -> Callable[[Case, Inputs], Outputs]:
    """The same, with the KD of weight alpha as a second method: `method=ttm+kd`."""

    def run(case: Case, inputs: Inputs) -> Outputs:
        h = case.hyper
        config = kind.Config(gamma=float(h["l"]), ce_weight=float(h["gamma"]), kd_weight=float(h["beta"]))
        other = KD.Config(T=float(h["T"]), ce_weight=0.0, kd_weight=float(h["alpha"]))
        return looped(terms_of(Combined({name: kind(config), "kd": KD(other)}), given(inputs), None))

    return run


def looped(terms: dict[str, Tensor]) -> Outputs:
    """The sum of the terms, which the loop reports and differentiates."""
    found = totalled(terms, "loss")
    return found | {"out/loop_total": found["loss"]}


LOOPS.update(
    irg=semckd_loop("irg", lambda h: {}),
    hkd=semckd_loop("hkd", fading),
    ttm=ttm_loop(TTM, "ttm"),
    wttm=ttm_loop(WTTM, "wttm"),
)
