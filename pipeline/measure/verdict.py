"""One sentence: what holds a training back, and what would move it. Computed from figures, by rules that are tested."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CLOSE = 1.1  # a factor below which two figures are equal: machines are not quieter than that
MUCH = 0.25  # a share worth doing something about


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured, images/s; None or {} for what was not.

    loaders: by name; words: the keys that ask for each; used: the one of the run. limit: whole JPEG files decoded by
    the library alone, in `workers` processes. step: our training loop on batches that lie ready; teacher: its forward
    alone. training: behind the real loader; data_wait: share of time. shared: loader and step run on the same cores.
    tunable: half precision and torch.compile are off, and help on this device.
    """

    loaders: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    used: str | None = None
    limit: float | None = None
    workers: int = 1
    step: float | None = None
    teacher: float | None = None
    training: float | None = None
    data_wait: float | None = None
    shared: bool = True
    tunable: bool = False


def bottleneck(f: Figures) -> str:
    """The sentence (with a second one where cores are shared)."""
    used = f.used if f.used in f.loaders else max(f.loaders, key=lambda name: f.loaders[name], default=None)
    if used is not None and f.step is not None:
        return _both(f, used, f.loaders[used], f.step) + _shared(f, f.loaders[used], f.step)
    if used is not None:
        speed = _n(f.loaders[used])
        return f"A step that takes more than {speed} images/s waits for the loader ({used}): {_move(f, used)}"
    if f.step is not None:
        return _step_alone(f, f.step)
    if f.limit is not None:
        return (
            f"Decoding: {_n(f.limit)} images/s is what {f.workers} processes decode of whole files with nothing else "
            "to do; smaller files (a .beton), more cores or a decoder on the GPU move it."
        )
    return "Nothing was measured that could be a bottleneck."


def _both(f: Figures, used: str, loader: float, step: float) -> str:
    if loader * CLOSE < step:
        return (
            f"The loader ({used}, {_n(loader)} images/s) feeds less than the step could take ({_n(step)} images/s): "
            f"{_move(f, used)}"
        )
    if step * CLOSE < loader:
        return (
            f"The step ({_n(step)} images/s) takes less than the loader ({used}) could feed ({_n(loader)} images/s): "
            f"{_speed_up(f)}"
        )
    return (
        f"Loader ({used}, {_n(loader)} images/s) and step ({_n(step)} images/s) are balanced: only both together move "
        f"it; {_move(f, used)}"
    )


def _step_alone(f: Figures, step: float) -> str:
    if f.training is None or f.data_wait is None:
        return f"The step takes {_n(step)} images/s from a loader that keeps up: {_speed_up(f)}"
    text = f"The training makes {_n(f.training)} images/s (its step alone: {_n(step)})"
    if f.data_wait >= MUCH:
        return (
            f"{text} and waits for data {_percent(f.data_wait)} of the time, so the loader is what to move: "
            "what=loader compares them."
        )
    return f"{text} and waits for data {_percent(f.data_wait)} of the time: {_speed_up(f)}"


def _move(f: Figures, used: str) -> str:
    """What would make the data come faster."""
    here = f.loaders[used]
    better = {name: speed for name, speed in f.loaders.items() if speed > here * CLOSE}
    if better:
        best = max(better, key=lambda name: better[name])
        far = "" if f.step is None else ", as much as the step takes" if better[best] >= f.step else ", still less"
        return f"{f.words.get(best, f'data.loader={best}')} would give {_n(better[best])} images/s{far}."
    if f.limit is None:
        return "no loader measured here is faster; more cores (data.workers) are what is left."
    if here * CLOSE >= f.limit:
        return (
            f"no loader measured here is faster, and it is at the decode limit of {f.workers} processes "
            f"({_n(f.limit)} images/s): smaller files (a .beton), more cores or a decoder on the GPU are what is left."
        )
    return (
        f"no loader measured here is faster; decoding alone would allow {_n(f.limit)} images/s in {f.workers} "
        "processes, and more cores (data.workers) raise both."
    )


def _speed_up(f: Figures) -> str:
    """What would make the step faster."""
    share = f.step / f.teacher if f.step and f.teacher else 0.0
    advice = []
    if share >= MUCH:
        advice.append(
            f"the teacher's forward is {_percent(share)} of it, which its cached outputs or a smaller one save"
        )
    if f.tunable:
        advice.append("runtime.amp=bf16 or runtime.compile=default may shorten it")
    return ("; ".join(advice) or "a smaller network, a larger batch or a faster device are what is left") + "."


def _shared(f: Figures, loader: float, step: float) -> str:
    if not f.shared:
        return ""
    together = 1 / (1 / loader + 1 / step)
    return f" Both run on the same cores here, so that about {_n(together)} images/s can come of the two."


def _n(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
