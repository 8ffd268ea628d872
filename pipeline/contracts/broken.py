"""What a method's answer breaks of the contract: asked only when a step has failed, so that no step pays for it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from pipeline.contracts.batch import Batch
from pipeline.contracts.interfaces import Distiller, ModelOutput, Signal, View


class _Broken(Exception):
    """Found while the method runs; the message is what is told of it."""


class _Absent(tuple[Tensor, ...]):
    """Maps that are not there: reading one raises _Broken. An optional method may still ask for their number."""

    reason = ""

    def __getitem__(self, at: Any) -> NoReturn:
        raise _Broken(self.reason)

    def __iter__(self) -> NoReturn:
        raise _Broken(self.reason)


def broken_by(
    method: Distiller,
    name: str,
    student: ModelOutput,
    teacher: ModelOutput | None,
    batch: Batch,
    progress: Tensor,
    extra: Sequence[View],
) -> str | None:
    """Runs the method once more on what it failed on; one line where it breaks the contract, None where it does not
    (the error is then another one). name: of the method; parts of a combination have their own. Gathers nothing."""
    running: list[str] = []
    parts = [(path, part) for path, part in method.named_modules() if isinstance(part, Distiller)]
    gathering = [part.gather_rows for _, part in parts]
    handles = []
    for path, part in parts:
        own = path.rpartition(".")[2] or name
        part.gather_rows = _same
        handles += [
            part.register_forward_pre_hook(partial(_enter, running, own)),
            part.register_forward_hook(partial(_leave, running, own)),
        ]
    asked = method.student_features, Signal.FEATURES in method.needs
    student = _marked(_leaf(student), "student", asked[0], "student_features = True")
    teacher = None if teacher is None else _marked(teacher, "teacher", asked[1], "Signal.FEATURES among its needs")
    try:
        with torch.enable_grad():
            terms = method(student, teacher, batch, progress, *extra)
        if not any(term.requires_grad for term in terms.values()):
            return f"method {name}: no term depends on the student"
    except _Broken as found:
        return f"method {running[-1] if running else name}{found}"
    except Exception:
        return None
    finally:
        for handle in handles:
            handle.remove()
        for (_, part), gather in zip(parts, gathering, strict=True):
            part.gather_rows = gather
    return None


def _same(x_B: Tensor) -> Tensor:
    return x_B


def _leaf(output: ModelOutput) -> ModelOutput:
    def free(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    features, preact = (tuple(map(free, maps)) for maps in (output.features, output.preact_features))
    return ModelOutput(free(output.logits_BK), free(output.pooled_BD), features, preact)


def _marked(output: ModelOutput, whose: str, asked: bool, advice: str) -> ModelOutput:
    """The output with maps that tell of themselves where there are none."""

    def marked(maps: tuple[Tensor, ...], field: str) -> tuple[Tensor, ...]:
        if maps:
            return maps
        absent = _Absent()
        why = f"which has no {field}" if asked else f"and does not ask for them: it needs {advice}"
        absent.reason = f" reads stage maps of the {whose}, {why}"
        return absent

    return output._replace(
        features=marked(output.features, "features"),
        preact_features=marked(output.preact_features, "preact_features"),
    )


def _enter(running: list[str], name: str, method: nn.Module, given: Any) -> None:
    running.append(name)


def _leave(running: list[str], name: str, method: nn.Module, given: Any, terms: Any) -> None:
    if not isinstance(terms, Mapping):  # of a part of a combination; of others the step says it
        code: Any = getattr(type(method).forward, "__code__", None)
        place = f" ({code.co_filename}, line {code.co_firstlineno})" if code else ""
        raise _Broken(f": forward gives a {type(terms).__name__}, not a dict of named scalar terms{place}")
    running.pop()
