"""Golden cases of re-parameterisable blocks and of KDrefine's students built from them."""

import copy
import re
from typing import Any

import torch
from golden_adapters import Outputs, adapter
from golden_cases import Case
from torch import Tensor, nn

from pipeline.models import MODELS
from pipeline.models.blocks import BLOCKS, deploy, fit_form


def filled(module: nn.Module, values: dict[str, Tensor], prefix: str) -> nn.Module:
    """`module` in the values' dtype, with them as its parameters and BN statistics, in eval mode."""
    state = {key.removeprefix(prefix): value.detach() for key, value in values.items()}
    known = module.to(next(iter(state.values())).dtype).state_dict()
    counters = {key: value for key, value in known.items() if key.endswith("num_batches_tracked")}
    assert [key for key in known if key not in counters] == list(state), "other keys, or in another order"
    module.load_state_dict(counters | state)
    return module.eval()


def precision_of(inputs: dict[str, Tensor]) -> str:
    return "f64" if next(iter(inputs.values())).dtype == torch.float64 else "f32"


def number_in(name: str, letter: str) -> int | None:
    """The number behind `letter` in one of the words of a case's name, such as k5 in DBB_k5_mid6."""
    found = re.search(rf"_{letter}(\d+)(?=_|$)", name)
    return int(found[1]) if found else None


def block_of(case: Case, x_BCHW: Tensor) -> nn.Module:
    """The block that a case's name and the shapes of its parameters describe."""
    kind = case.name.split("_")[0].lower()
    dense = max((s for s in case.parameter_specs.values() if len(s) == 4), key=lambda s: s[2] * s[3])
    options: dict[str, Any] = {"stride": number_in(case.name, "s") or 1, "padding": number_in(case.name, "p")}
    for name in ("conv1", "idconv1"):
        if (middle := case.parameter_specs.get(f"blk.dbb_1x1_kxk.{name}.weight")) is not None:
            options["mid_channels"] = middle[0]
    if kind == "repvgg":
        options["activate"] = True
    channels = x_BCHW.shape[1]
    return BLOCKS.get(kind)(channels, dense[0], dense[2], groups=channels // dense[1], **options)


@adapter("rep_blocks")
def rep_block(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    x_BCHW = inputs["x"]
    block = filled(block_of(case, x_BCHW), case.parameters(precision_of(inputs)), "blk.")
    training, deployed = copy.deepcopy(block).train(), deploy(copy.deepcopy(block))
    (folded,) = deployed.children()
    out_BCHW = block(x_BCHW)
    loss = out_BCHW.square().mean()
    return {
        "out/train_mode_out": training(x_BCHW),
        "out/eval_out": out_BCHW,
        "out/fused_weight": folded.weight,
        "out/fused_bias": folded.bias,
        "out/deploy_out": deployed(x_BCHW),
        "loss": loss,
        "backward": loss,
        "parameters": {f"blk.{name}": leaf for name, leaf in block.named_parameters()},
    }


@adapter("rep_nets")
@torch.no_grad()
def rep_net(case: Case, inputs: dict[str, Tensor]) -> Outputs:
    (image_BCHW,) = inputs.values()
    values = case.parameters(precision_of(inputs))
    name = next(iter(values)).partition(".")[0]
    classes = len(values[next(reversed(values))])  # the classifier's bias comes last

    def made() -> nn.Module:
        return MODELS.get(name)(num_classes=classes, block=case.hyper["blocktype"]).to(image_BCHW.dtype).eval()

    network = filled(made(), values, f"{name}.")
    output = network(image_BCHW, features=True)
    maps = {f"out/feat{i}": map_ for i, map_ in enumerate((*output.features, output.pooled_BD))}
    before = sum(p.numel() for p in network.parameters())
    deploy(network)
    again = made()
    fit_form(again, network.state_dict())
    again.load_state_dict(network.state_dict())
    return maps | {
        "out/logits": output.logits_BK,
        "out/n_params_train": torch.tensor(before),
        "out/deploy_logits": network(image_BCHW).logits_BK,
        "out/n_params_deploy": torch.tensor(sum(p.numel() for p in network.parameters())),
        "out/reloaded_logits": again(image_BCHW).logits_BK,
    }
