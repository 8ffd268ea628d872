"""Weights as people's tools write them: containers, prefixes, bookkeeping, several sets in one file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.builders import networks
from pipeline.contracts import InputError
from pipeline.models.blocks import deploy
from pipeline.models.build import build
from pipeline.weights import load_into, load_weights, read_predictor, read_state

State = dict[str, Tensor]


class Net(nn.Module):
    """Two layers, a BN with an integer buffer, and a classifier."""

    def __init__(self, num_classes: int = 5, seed: int = 0, more: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, num_classes)
        if more:
            self.more = nn.Linear(4, 4)


A, B = Net(seed=1).state_dict(), Net(seed=2).state_dict()
LARGER = Net(seed=3, more=True).state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def within(wrapper: str, state: State) -> State:
    """Each module of the network in a wrapper of its own."""
    return {key.replace(".", f".{wrapper}.", 1): value for key, value in state.items()}


def uncounted(state: State) -> State:
    return {key: value for key, value in state.items() if "num_batches_tracked" not in key}


def same(a: State, b: State) -> bool:
    return list(a) == list(b) and all(torch.equal(a[key], b[key]) for key in a)


def saved(content: Any, folder: Path, *, zipped: bool = True) -> Path:
    torch.save(content, folder / "f", _use_new_zipfile_serialization=zipped)
    return folder / "f"


def refusal(content: Any, folder: Path, **options: Any) -> str:
    """The message of the InputError, which must be one line that names the file."""
    file = saved(content, folder)
    with pytest.raises(InputError) as caught:
        load_weights(file, expected=options.pop("network", Net()), **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{file}: ")
    return message


HOLDING_A: dict[str, Callable[[], Any]] = {
    **{name: lambda name=name: {name: A, "epoch": 3} for name in ("net", "network", "state", "params", "weights")},
    **{name: lambda name=name: {name: A} for name in ("model_state_dict", "model_state", "module", "whatever")},
    "Lightning": lambda: {"state_dict": under("model.", A), "epoch": 1, "global_step": 7, "callbacks": {}, "loops": {}},
    "Lightning, compiled": lambda: {"state_dict": under("net._orig_mod.", A)},
    "Lightning with a loss": lambda: {"state_dict": {**under("backbone.", A), "loss.weight": torch.ones(5)}},
    "Lightning with parts": lambda: {"state_dict": {**under("student.", A), **under("teacher.", LARGER)}},
    "Lightning with both parts in a module": lambda: {
        "state_dict": {**under("d.student.", A), **under("d.teacher.", B)}
    },
    "parts beside each other": lambda: {"student": A, "teacher": B, "epoch": 1},
    "accelerate, wrapped": lambda: under("module.", A),
    "containers in containers": lambda: {"checkpoint": {"state": {"model": A}}, "meta": {"seed": 1}},
    "a list": lambda: [A, {"lr": 0.1}],
    "AveragedModel": lambda: {"n_averaged": torch.tensor(3), **under("module.", A)},
    "thop": lambda: {**A, "total_ops": torch.zeros(1), "total_params": torch.zeros(1), "bn.total_ops": torch.zeros(1)},
    "FSDP": lambda: under("_fsdp_wrapped_module.", within("_fsdp_wrapped_module", A)),
    "checkpointed activations": lambda: within("_checkpoint_wrapped_module", A),
    "DataParallel inside, as AlexNet's features": lambda: {"state_dict": within("module", A)},
    "DeepSpeed": lambda: {"module": under("module.", A), "optimizer": None, "ds_version": "0.1"},
    "with an optimiser": lambda: {
        "net": A,
        "optim": {"state": {0: {"exp_avg": torch.ones(4, 3, 3, 3), "step": torch.tensor(1.0)}}, "param_groups": []},
    },
    "besides numbers": lambda: {**A, "epoch": 3, "best_acc": 71.0},
    "another network beside it": lambda: {"net": A, "other": LARGER},
    "twice the same": lambda: {"best": A, "last": {key: value.clone() for key, value in A.items()}},
    "without counters": lambda: uncounted(A),
    "Lightning without counters": lambda: {"state_dict": under("model.", uncounted(A))},
    "counters with a dimension": lambda: {**A, "bn.num_batches_tracked": torch.zeros(1, dtype=torch.int64)},
    "counters as all the rest": lambda: {**A, "bn.num_batches_tracked": torch.tensor(0.0)},
    "counters beyond float16": lambda: {**A, "bn.num_batches_tracked": torch.tensor(float("inf"), dtype=torch.float16)},
}


@pytest.mark.parametrize("zipped", (True, False))
@pytest.mark.parametrize("layout", HOLDING_A)
def test_layouts(layout: str, zipped: bool, tmp_path: Path) -> None:
    file = saved(HOLDING_A[layout](), tmp_path, zipped=zipped)
    assert same(load_weights(file, expected=Net()), A)
    network = Net()
    load_into(network, file)
    assert same(network.state_dict(), A)


def test_a_wrapped_state_in_safetensors(tmp_path: Path) -> None:
    safetensors.torch.save_file(under("model.module.", uncounted(A)), tmp_path / "model.safetensors")
    assert same(load_weights(tmp_path / "model.safetensors", expected=Net()), A)


def test_missing_counters_as_torch_takes_them(tmp_path: Path) -> None:
    file, network = saved(uncounted(A), tmp_path), Net()
    twin = Net()
    twin.load_state_dict(torch.load(file))
    network.bn.num_batches_tracked += 3
    load_into(network, file)
    assert network.bn.num_batches_tracked.item() == 3 and same(twin.state_dict(), A)
    shapes = {key: tuple(value.shape) for key, value in A.items()}
    assert same(load_weights(file, expected=shapes), A)
    assert "5 missing keys" in refusal({k: v for k, v in A.items() if "bn." not in k}, tmp_path)


@pytest.mark.parametrize("name", ("resnet8", "represnet20", "vgg8"))
def test_networks_without_counters(name: str, tmp_path: Path) -> None:
    source = build(name, num_classes=5)
    for form in (source, deploy(build(name, num_classes=5))):
        file = saved({"state_dict": under("net.", uncounted(form.state_dict()))}, tmp_path)
        network = build(name, num_classes=5)
        networks.fill(network, file)
        assert same(network.state_dict(), form.state_dict())
        assert networks.classes_in(str(file), name, {}) == 5


SEVERAL: dict[str, tuple[Callable[[], Any], str, str]] = {
    "timm": (lambda: {"state_dict": A, "state_dict_ema": B, "arch": "x"}, "state_dict", "state_dict_ema"),
    "torchvision": (
        lambda: {"model": A, "model_ema": {"n_averaged": torch.tensor(3), **under("module.", B)}},
        "model",
        "model_ema",
    ),
    "ema": (lambda: {"net": A, "ema": B}, "net", "ema"),
    "ema_state_dict": (lambda: {"model_state_dict": A, "ema_state_dict": B}, "model_state_dict", "ema_state_dict"),
    "params_ema": (lambda: {"params": A, "params_ema": B}, "params", "params_ema"),
    "YOLO": (lambda: {"model": A, "ema": {"module": B, "updates": 5}}, "model", "ema.module"),
    "swa": (lambda: {"state_dict": A, "swa_model": B}, "state_dict", "swa_model"),
    "camel": (lambda: {"model": A, "modelEMA": B}, "model", "modelEMA"),
    "by prefix": (
        lambda: {"state_dict": {**under("model.", A), **under("ema_model.", B)}},
        "state_dict.model",
        "ema_model",
    ),
    "beside itself": (lambda: {**A, **under("ema.", B)}, "plain", "ema"),
}


@pytest.mark.parametrize("layout", SEVERAL)
def test_averaged_weights_come_first_and_are_named(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, plain, averaged = SEVERAL[layout]
    file = saved(make(), tmp_path)
    assert same(load_weights(file, expected=Net()), B)
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and averaged in line and f"student.weights={plain}" in line
    for name in {plain, "plain"}:
        assert same(load_weights(file, expected=Net(), weights=name, key="teacher.weights"), A)
        assert "teacher.weights=" in capsys.readouterr().out
    for name in (averaged, "ema"):
        assert same(load_weights(file, expected=Net(), weights=name), B)
    monkeypatch.setenv("RANK", "1")
    capsys.readouterr()
    load_weights(file, expected=Net())
    assert capsys.readouterr().out == ""


def test_one_set_is_no_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_weights(saved({"net": A}, tmp_path), expected=Net())
    assert capsys.readouterr() == ("", "")


def test_what_is_asked_for_and_not_there(tmp_path: Path) -> None:
    message = refusal({"model": A, "net2": B}, tmp_path, weights="ema", key="teacher.weights")
    assert "holds no teacher.weights=ema (but model, net2)" in message
    assert "student.weights=x" in refusal(A, tmp_path, weights="x")
    assert "checkpoint has 7 classes" in refusal(
        {"model": A, "model_ema": Net(7).state_dict()}, tmp_path, weights="model_ema"
    )


def test_averages_of_parameters_alone_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {key: value for key, value in B.items() if "running" not in key and "num_batches" not in key}
    file = saved({"model": A, "ema": parameters}, tmp_path)
    assert same(load_weights(file, expected=Net()), A)
    assert "ema holds a part of the network only" in capsys.readouterr().out
    message = refusal({"model": A, "ema": parameters}, tmp_path, weights="ema")
    assert "2 missing keys (bn.running_mean, bn.running_var)" in message


@pytest.mark.parametrize(
    "content",
    (
        {"a": A, "b": B},
        {"state_dict": {**under("encoder_q.", A), **under("encoder_k.", B)}},
        {"nets": [A, B]},
        {**under("model.", A), **under("old.", B)},
        {"ema1": A, "ema2": B},
    ),
)
def test_ambiguous_files_are_refused(content: Any, tmp_path: Path) -> None:
    message = refusal(content, tmp_path, part="teacher", key="teacher.weights")
    assert "holds several weights of this network (" in message and "teacher.weights=NAME chooses" in message


def test_an_ambiguous_file_with_a_choice(tmp_path: Path) -> None:
    file = saved({"state_dict": {**under("encoder_q.", A), **under("encoder_k.", B)}}, tmp_path)
    assert same(load_weights(file, expected=Net(), weights="state_dict.encoder_k"), B)
    file = saved({"nets": [A, B]}, tmp_path)
    assert same(load_weights(file, expected=Net(), weights="nets.1"), B)


def test_the_teacher_of_a_file_with_parts(tmp_path: Path) -> None:
    for content in (
        {"student": A, "teacher": B},
        {"model": A, "teacher": B},
        {"student_model": A, "teacher_model": B},
        {"state_dict": {**under("net.student.", A), **under("net.teacher.", B)}},
    ):
        file = saved(content, tmp_path)
        assert same(load_weights(file, expected=Net(), part="teacher"), B)
        assert same(load_weights(file, expected=Net(), part="student"), A)


def test_our_checkpoints_give_what_training_goes_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {key: value for key, value in B.items() if "running" not in key and "num_batches" not in key}
    content = {
        "model": A,
        "distiller": under("copy.", B),
        "updater": {"ema": parameters, "predictor_ema": {}, "optimizer": {"state": {}}},
        "ranks": [{"buffers": {"student.bn.running_mean": torch.ones(4)}}],
    }
    file = saved(content, tmp_path)
    assert same(load_weights(file, expected=Net()), A)
    assert "student.weights=updater.ema" in capsys.readouterr().out
    assert same(load_weights(file, expected=Net(), weights="ema"), A | parameters)
    assert same(read_predictor(file), under("copy.", B))


def test_refusals_are_as_clear_in_containers(tmp_path: Path) -> None:
    seven = Net(7).state_dict()
    for content in (
        {"net": seven},
        {"state_dict": under("model.", seven)},
        under("module.backbone.", uncounted(seven)),
    ):
        assert refusal(content, tmp_path).endswith(": checkpoint has 7 classes, the data set 5")
    assert "2 unexpected keys (more.weight, more.bias)" in refusal({"state_dict": under("model.", LARGER)}, tmp_path)
    assert "2 missing keys (more.weight, more.bias)" in refusal({"net": A}, tmp_path, network=Net(more=True))


@pytest.mark.parametrize("prefix", ("predictor.", "module.predictor.", "module.module.predictor.", "module."))
def test_nothing_but_a_predictor(prefix: str, tmp_path: Path) -> None:
    assert "holds no state dict" in refusal(under(prefix, {"predictor.a": torch.ones(1)}), tmp_path)
    file = saved({"predictor.a": torch.ones(1)}, tmp_path)
    with pytest.raises(InputError, match="holds no state dict"):
        read_state(file)


def test_wrappers_that_a_network_has_itself(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = Net(seed=4)

    source = Outer()
    for content in (source.state_dict(), {"net": under("module.", source.state_dict())}):
        network = Outer()
        load_into(network, saved(content, tmp_path))
        assert same(network.state_dict(), source.state_dict())
