"""From a configuration to the method: its parts, the form of the networks, what it may know. For entry points only."""

import contextlib
import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pipeline.builders import networks
from pipeline.builders.names import variant_problems, with_terms
from pipeline.config import FREE_FORM, TrainConfig, layer_file, parts_of, validate_arguments
from pipeline.contracts import Batch, Distiller, InputError, ModelOutput, Setting, Shapes, Signal, TeacherSource
from pipeline.datasets import ImageSet
from pipeline.distillers import DISTILLERS
from pipeline.distillers.common.combined import Combined
from pipeline.models.cam import FORMS
from pipeline.teachers.preprocess import Preprocess

PROBED = 4  # rows


@contextlib.contextmanager
def seeded(seed: int, part: int) -> Iterator[None]:
    """Random numbers of one part of the run: the student's first weights do not depend on the teacher or the method."""
    with torch.random.fork_rng():
        torch.manual_seed(seed * 1000 + part)
        yield


def method_kinds(config: TrainConfig) -> dict[str, type[Distiller]]:
    """The classes of the method, or of a combination's parts that have terms. Raises InputError for a wrong variant."""
    kinds = {name: DISTILLERS.get(name) for name in parts_of(config.method)}
    acting = with_terms(kinds)
    unheard = [name for name in kinds if name not in acting and not changes(name, list(acting))]
    if unheard:
        raise InputError(f"method {unheard[0]} has nothing to change in {', '.join(acting)}")
    if not acting or any(not kind.stands_alone for kind in acting.values()):
        raise InputError(f"method {config.method} only changes other methods: method=kd+{config.method}")
    for name in (name for name in kinds if name not in acting):
        rule = layer_file("method", name).get("optim", {}).get("name", config.optim.name)
        if rule != config.optim.name:
            raise InputError(f"method {config.method}: {name} is an update rule, and optim.name={config.optim.name}")
    for problem in variant_problems(config.method, config.variant):
        raise InputError(problem)
    return acting


def changes(modifier: str, others: list[str]) -> bool:
    """Whether the modifier's YAML names one of the other parts under `with:`, or changes the update of any."""
    layer = layer_file("method", modifier)
    return bool(layer.get("with", {}).keys() & set(others)) or "optim" in layer


def declared_by(config: TrainConfig, name: str) -> bool:
    """Whether the chosen variant is among those that the method lists under the class attribute `name`."""
    for kind in method_kinds(config).values():
        chosen = next(iter(kind.variants)) if config.variant == "default" else config.variant
        if chosen in getattr(kind, name):
            return True
    return False


def in_form(network: nn.Module, kinds: Mapping[str, type[Distiller]], variant: str, image_size: int) -> nn.Module:
    """`network` in the form that the method works on (class-activation maps), or as it is."""
    for kind in kinds.values():
        if kind.forms:
            chosen = next(iter(kind.variants)) if variant == "default" else variant
            network = FORMS[kind.forms[chosen]](network, side=image_size)
    return network


def make_setting(config: TrainConfig, student: nn.Module, teacher: TeacherSource, images: ImageSet) -> Setting:
    """What the method may know of the run."""
    network = teacher.network
    own_size = teacher_preprocess(config).image_size if network is not None else None
    size = config.data.image_size
    return Setting(
        student=networks.shapes_of(student, size),
        teacher=getattr(teacher, "shapes", None) if network is None else networks.shapes_of(network, own_size or size),
        classifier=None if network is None else network.classifier,
        norms=() if network is None else tuple(network.bn_before_relu()),
        label_N=torch.from_numpy(images.label_N),
        batch_size=config.data.batch_size,
        epochs=config.optim.epochs,
        seed=config.seed,
        label_smoothing=config.optim.label_smoothing,
    )


def build_distiller(config: TrainConfig, setting: Setting) -> Distiller:
    """The method with its hyper-parameters; several are combined."""
    kinds = method_kinds(config)
    methods = {}
    with seeded(config.seed, 1):
        for name, kind in kinds.items():
            _check_maps(name, kind, setting)
            several = "+" in config.method
            given = config.method_args.get(name, {}) if several else config.method_args
            prefix = f"{FREE_FORM}.{name}" if several else FREE_FORM
            methods[name] = kind(validate_arguments(kind.Config, given, prefix), setting, config.variant)
            if not hasattr(methods[name], "label_smoothing"):
                raise InputError(f"method {name}: its __init__ must call super().__init__(config, setting, variant)")
    distiller = Combined(methods) if len(methods) > 1 else next(iter(methods.values()))
    if distiller.relates_samples and config.optim.accumulate > 1:
        raise InputError(f"method {config.method} relates all samples of a batch: use optim.accumulate=1")
    return distiller


def _check_maps(name: str, kind: type[Distiller], setting: Setting) -> None:
    """Raises InputError where the method reads stage maps of a network that has none."""
    reads = {"student": kind.student_features, "teacher": Signal.FEATURES in kind.needs}
    for whose, shapes in (("student", setting.student), ("teacher", setting.teacher)):
        if reads[whose] and shapes is not None and not shapes.features:
            raise InputError(f"method {name} reads stage maps, and the {whose} has no stage maps")


def check_classifier(config: TrainConfig, distiller: Distiller, setting: Setting, teacher: TeacherSource) -> None:
    """Raises InputError where the method learns from the logits of a classifier that is untrained."""
    reason = getattr(teacher.network, "untrained", None)
    if reason and reads_logits(distiller, setting):
        raise InputError(f"method {config.method} learns from its teacher's logits, but {reason}")


@torch.no_grad()
def reads_logits(distiller: Distiller, setting: Setting) -> bool:
    """Whether the terms depend on the teacher's logits, which most feature methods read at a weight above 0 only."""
    if distiller.streams or distiller.teacher_pass or setting.teacher is None:
        return True
    generator = torch.Generator().manual_seed(0)

    def output(shapes: Shapes) -> ModelOutput:
        features, preact = (
            tuple(torch.rand(PROBED, *shape, generator=generator) for shape in maps)
            for maps in (shapes.features, shapes.preact)
        )
        logits_BK, pooled_BD = (torch.rand(PROBED, n, generator=generator) for n in (shapes.classes, shapes.pooled))
        return ModelOutput(logits_BK, pooled_BD, features, preact)

    student, taught = output(setting.student), output(setting.teacher)
    index_B = torch.arange(PROBED)
    batch = Batch(image_BCHW=torch.zeros(PROBED, 3, 1, 1), label_B=index_B % setting.student.classes, index_B=index_B)

    def spoilt(logits_BK: Tensor) -> bool:
        method, teacher = copy.deepcopy(distiller), taught._replace(logits_BK=logits_BK)
        terms = method(student, teacher, batch, torch.zeros(()))
        if method.first_stage is not None:
            terms |= method.first_stage_terms(student, teacher, batch)
        return any(not bool(term.isfinite()) for term in terms.values())

    try:
        with torch.random.fork_rng():
            return spoilt(taught.logits_BK) or spoilt(torch.full_like(taught.logits_BK, torch.nan))
    except Exception:  # whatever a method does with so small a batch: it is not shown to do without
        return True


def check_growth(config: TrainConfig, distiller: Distiller, teacher: TeacherSource) -> None:
    """Raises InputError where images grow (data.min_image_size) and a part of the run takes one size only."""
    data = config.data
    if data.ramp is None:
        return
    instead = f"data.min_image_size=null keeps images at {data.image_size} pixels"
    if distiller.fixed_size:
        raise InputError(f"method {config.method} fits maps of one size with these networks: {instead}")
    reads_both = Signal.FEATURES in distiller.needs and distiller.student_features
    if reads_both and teacher_preprocess(config).image_size is not None:
        raise InputError(f"method {config.method} compares maps, and the teacher's images would not grow: {instead}")
    if teacher.views is not None and teacher.views < config.optim.epochs:
        raise InputError(
            f"the teacher cache has {teacher.views} views for {config.optim.epochs} epochs, and a view shown again "
            f"would have grown: write as many views as epochs; {instead}"
        )


def teacher_preprocess(config: TrainConfig) -> Preprocess:
    """The teacher's own mean, std and resolution: as configured, else of its library's weights, else the student's."""
    data, teacher = config.data, config.teacher
    own = networks.own_preprocessing(str(teacher.model), teacher.checkpoint)
    return Preprocess(
        data.mean,
        data.std,
        teacher.mean or own.get("mean", data.mean),
        teacher.std or own.get("std", data.std),
        teacher.image_size or own.get("image_size"),
        teacher.interpolation or own.get("interpolation", "bilinear"),
    )
