"""Images that grow: a method built at one size does at another what one built there does, or says that it cannot."""

from typing import cast

import pytest
import torch
from methods.lab import METHODS, ROWS, Bench, config_of

from pipeline.builders.method import build_distiller, check_growth
from pipeline.contracts import Distiller, InputError, Setting, Shapes, TeacherSource
from pipeline.distillers.fitnet import FitNet
from pipeline.teachers.live import NoTeacher

BUILT, SEEN = 32, 16
# Student maps that are larger, equal and smaller than the teacher's.
UNLIKE = (
    ("simkd", "vgg13", "resnet8"), ("simkd", "resnet14", "vgg8"), ("reviewkd", "vgg13", "resnet8"),
    ("semckd", "vgg13", "resnet8"), ("fitnet", "vgg13", "resnet8"), ("srrl", "vgg13", "resnet8"),
)  # fmt: skip


def check(method: str, *words: str) -> None:
    config = config_of(method, "resnet20-resnet8", *words)
    large, small = Bench(config, side=BUILT), Bench(config, side=SEEN)
    assert not large.method.fixed_size
    state = large.step.state_dict()
    sizes = {name for name in state if name.endswith("map_size")}
    small.step.load_state_dict(
        {name: small.step.state_dict()[name] if name in sizes else state[name] for name in state}
    )
    outputs = []
    for bench in (large, small):
        torch.manual_seed(5)
        outputs.append(bench.step(torch.tensor(1.5), *bench.see(small.batch())))
    assert outputs[0].terms.keys() == outputs[1].terms.keys()
    for name, value in outputs[0].terms.items():
        assert torch.equal(value, outputs[1].terms[name]), name
    predicted = [
        bench.method.eval().predict(bench.student(small.batch().image_BCHW, features=True)) for bench in (large, small)
    ]
    assert torch.equal(*predicted)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_built_at_another_size(method: str) -> None:
    check(method)


@pytest.mark.parametrize(("method", "teacher", "student"), UNLIKE)
def test_maps_of_unlike_sizes(method: str, teacher: str, student: str) -> None:
    check(method, f"teacher.model={teacher}", f"student.model={student}")


def growing(method: str, *words: str) -> tuple[object, Distiller]:
    words = ("data.image_size=64", "data.min_image_size=32", "data.grow_epochs=[1,3]", "data.crop=window", *words)
    config = config_of(method, "resnet20-resnet8", *words)
    shapes = Shapes(10, 8, ((4, 16, 16), (4, 16, 16), (8, 8, 8)))
    return config, build_distiller(config, Setting(student=shapes, teacher=shapes))


class Recorded(NoTeacher):
    views: int | None = 2


@pytest.mark.parametrize(
    ("words", "teacher", "reason"),
    [
        (["teacher.image_size=64"], NoTeacher(), "the teacher's images would not grow"),
        (["optim.epochs=3"], Recorded(), "the teacher cache has 2 views for 3 epochs"),
    ],
)
def test_what_cannot_grow_is_refused(words: list[str], teacher: TeacherSource, reason: str) -> None:
    config, method = growing("fitnet", *words)
    with pytest.raises(InputError) as caught:
        check_growth(config, method, teacher)  # type: ignore[arg-type]
    assert reason in str(caught.value) and "data.min_image_size=null" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_regressor_of_one_size_is_refused() -> None:
    student, teacher = (Shapes(10, 8, ((4, 16, 16), (4, 16, 16), (8, side, side))) for side in (14, 12))
    method = FitNet(FitNet.Config(), Setting(student=student, teacher=teacher))
    config, fits = growing("fitnet")
    assert method.fixed_size and not cast(FitNet, fits).fixed_size
    check_growth(config, fits, NoTeacher())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="fits maps of one size"):
        check_growth(config, method, NoTeacher())  # type: ignore[arg-type]


def test_one_graph_for_each_size() -> None:
    """As engine/distributed/parallel.py compiles: never a graph of unknown shapes."""
    bench = Bench(config_of("dkd", "resnet20-resnet8"), side=BUILT)
    sizes = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        sizes.extend({x.shape[-1] for x in inputs if x.ndim == 4 and x.shape[:2] == (ROWS, 3)})
        return graph.forward

    torch._dynamo.reset()
    run = torch.compile(bench.step, fullgraph=True, backend=backend, dynamic=False)
    for side in (16, 32, 16, 48, 32):
        bench.side = side
        run(torch.tensor(1.0), *bench.see(bench.batch()))
    assert sizes == [16, 32, 48]
