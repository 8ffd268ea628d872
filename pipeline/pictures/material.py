"""What pictures are drawn from: the runs, and what their networks say of the test images, computed when asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.builders import networks
from pipeline.builders.method import teacher_preprocess
from pipeline.builders.predictors import predictor_of
from pipeline.builders.run import image_set, loader_config
from pipeline.builders.teacher import teacher_network
from pipeline.config import TrainConfig
from pipeline.contracts import Distiller, InputError, ModelOutput
from pipeline.datasets import ImageSet
from pipeline.datasets.image_set import check_classes
from pipeline.engine.distributed import parallel
from pipeline.engine.distributed.parallel import World
from pipeline.loaders.torch_workers import WorkerLoader
from pipeline.models.predicting import PredictingNetwork
from pipeline.pictures import Nothing
from pipeline.run_folder.earlier_defaults import as_recorded
from pipeline.run_folder.groups import RunGroup, labelled
from pipeline.run_folder.record import RunRecord
from pipeline.teachers.preprocess import Preprocess

Array = NDArray[Any]


class Named(NamedTuple):
    """A network of the report. group: its number among the groups, None for a teacher."""

    title: str
    outputs: "Outputs"
    group: int | None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Of one network on the test images: logits [N, K], input of the classifier [N, D], labels [N]."""

    logits_NK: Array
    pooled_ND: Array
    label_N: Array


class Material:
    """runs with their networks' outputs. images: test images used, evenly spread, 0 = all; root: data.root, where it
    is not the run's own; points: of t-SNE; note: gets lines for a person."""

    def __init__(
        self,
        runs: Sequence[RunRecord],
        world: World,
        *,
        images: int = 10_000,
        points: int = 2000,
        root: str | None = None,
        workers: int = 0,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.runs = list(runs)
        self.groups: list[RunGroup] = labelled(runs)
        self.world, self.images, self.points = world, images, points
        self._root, self._workers, self._note = root, workers, note
        self._sets: dict[str, ImageSet] = {}
        self._outputs: dict[str, Outputs] = {}

    def student(self, run: RunRecord) -> Outputs:
        """Of the run's student, as it predicts. Raises Nothing for a run without weights."""
        if run.weights is None:
            raise Nothing(f"{run.folder}: no weights yet")
        return self._cached(run, "student", run.folder, lambda: self._of_student(run))

    def teacher(self, run: RunRecord) -> Outputs:
        """Of the run's teacher. Raises Nothing for a run without one, or whose checkpoint is not there."""
        if not run.keys.get("teacher.model") or run.keys.get("teacher.checkpoint") in (None, networks.UNTRAINED):
            raise Nothing(f"{run.folder}: no teacher with weights")
        told = sorted((k, str(v)) for k, v in run.keys.items() if k.startswith(("teacher.", "data.", "dataset")))
        return self._cached(run, "teacher", told, lambda: self._of_teacher(run))

    def taught(self) -> list[tuple[RunGroup, RunRecord]]:
        """(group, its first run) of groups with a student and a teacher. Raises Nothing where there is none."""
        found, reasons = [], []
        for group in self.groups:
            try:
                self.student(group.runs[0])
                self.teacher(group.runs[0])
                found.append((group, group.runs[0]))
            except Nothing as reason:
                reasons.append(str(reason))
        if not found:
            raise Nothing("; ".join(reasons[:2]))
        return found

    def shown_networks(self) -> list[Named]:
        """The teachers once each, then the student of each group's first run. Raises Nothing where there is none."""
        found: dict[int, Named] = {}
        for index, group in enumerate(self.groups):
            run = group.runs[0]
            name = str(run.keys.get("teacher.model")).rpartition("/")[2]
            for title, make, number in ((f"teacher {name}", self.teacher, None), (group.label, self.student, index)):
                try:
                    outputs = make(run)
                except Nothing:
                    continue
                found.setdefault(id(outputs), Named(title, outputs, number))
        if not found:
            raise Nothing("no run has weights yet")
        teachers = [one for one in found.values() if one.group is None]
        # A teacher that was trained here is a run too: once is enough.
        again = [id(one) for one in found.values() if one.group is not None and any(_same(one, t) for t in teachers)]
        return teachers + [one for one in found.values() if one.group is not None and id(one) not in again]

    def _cached(self, run: RunRecord, what: str, settings: object, make: Callable[[], Outputs]) -> Outputs:
        key = f"{what} {settings}"
        if key not in self._outputs:
            self._note(f"running the {what} of {run.folder} on the test images")
            self._outputs[key] = make()
        return self._outputs[key]

    def _config(self, run: RunRecord) -> TrainConfig:
        config = as_recorded(run.config, run.folder)
        root = {"root": self._root} if self._root else {}
        return config.model_copy(update={"data": config.data.model_copy(update=root | {"download": False})})

    def _set(self, config: TrainConfig) -> ImageSet:
        key = f"{config.dataset} {config.data.root}"
        if key not in self._sets:
            self._sets[key] = image_set(config.dataset, config.data, "test", self.world)
            check_classes(self._sets[key])
        return self._sets[key]

    def _of_student(self, run: RunRecord) -> Outputs:
        config, file = self._config(run), str(run.weights)
        data, student, images = config.data, config.student, self._set(config)
        network = networks.make(
            str(student.model),
            num_classes=images.num_classes,
            image_size=data.test_size,
            checkpoint=file,
            options=student.args | {"block": student.block},
        )
        predictor = predictor_of(file, network, data.image_size)
        if predictor is not None:
            predictor.to(self.world.device)
        predict = predictor.predict if predictor is not None else Distiller.predict_by_student
        network = parallel.prepare_frozen(network, config.runtime, self.world.device)
        return self._run(config, network, predict, lambda image_BCHW: image_BCHW, predictor is not None)

    def _of_teacher(self, run: RunRecord) -> Outputs:
        config = self._config(run)
        teacher, prepare = config.teacher, teacher_preprocess(config)
        try:
            size = prepare.image_size or config.data.test_size
            network = teacher_network(config, self._set(config).num_classes, size)
        except InputError as error:
            raise Nothing(f"{run.folder}: its teacher cannot be used ({error})") from None
        file = networks.find(str(teacher.model), teacher.checkpoint, config.dataset, teacher.root)
        predictor = predictor_of(file, network, prepare.image_size or config.data.image_size)
        if predictor is not None:
            network = PredictingNetwork(network, predictor)
        network = parallel.prepare_frozen(network, config.runtime, self.world.device)
        return self._run(config, network, Distiller.predict_by_student, prepare.to(self.world.device), False)

    @torch.no_grad()
    def _run(
        self,
        config: TrainConfig,
        network: nn.Module,
        predict: Callable[[ModelOutput], Tensor],
        prepare: Preprocess | Callable[[Tensor], Tensor],
        features: bool,
    ) -> Outputs:
        data, images = config.data, self._set(config)
        count = min(self.images or len(images), len(images))
        index_N = np.unique(np.linspace(0, len(images) - 1, count).round().astype(np.int64))
        here = data.model_copy(update={"workers": self._workers})
        how = loader_config(here, config.runtime, self.world, train=False, index_N=index_N)
        autocast = parallel.autocast_factory(config.runtime, self.world.device)

        def output_of(image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
            with autocast():
                output: ModelOutput = network(prepare(image_BCHW), features=features)
            return predict(output.float()).float(), output.float().pooled_BD

        parts: list[tuple[Array, ...]] = []
        for batch in WorkerLoader(images, how):
            logits_BK, pooled_BD = output_of(batch.image_BCHW)
            if data.eval_flip:
                logits_BK = (logits_BK + output_of(batch.image_BCHW.flip(3))[0]) / 2
            parts.append(tuple(x.cpu().numpy() for x in (logits_BK, pooled_BD, batch.label_B)))
        logits_NK, pooled_ND, label_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Outputs(logits_NK=logits_NK, pooled_ND=pooled_ND, label_N=label_N)


def _same(one: Named, other: Named) -> bool:
    return np.array_equal(one.outputs.logits_NK, other.outputs.logits_NK)
