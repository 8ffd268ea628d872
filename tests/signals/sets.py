"""The data and the command lines that tests/signals interrupts."""

from pathlib import Path

import jpeg_files
import mini_cifar
from cache_jobs import teacher_file

TRAIN, CACHE = "pipeline.train", "data_prep.cache_teacher"
TAUGHT = ("student.model=resnet8", "teacher.model=resnet8", "teacher.checkpoint=ROOT/teacher.pth", "method=kd")
CIFAR = ("dataset=cifar100", "data.root=ROOT", "data.batch_size=32", "data.eval_batch_size=20", "data.workers=0")
KD = (*CIFAR, *TAUGHT)
FT = (*KD, "method=ft", "method_args.first_epochs=2", "method_args.first_lr=1e-6")
IMAGES = (
    *("dataset=folder", "data.root=ROOT/images", "student.model=resnet8", "data.image_size=32", "data.batch_size=4"),
    *("data.eval_batch_size=4", "data.workers=2"),
)


def prepare(root: Path) -> Path:
    """A CIFAR of 200 images (the last batch of an epoch is short), 24 JPEG files, a teacher."""
    mini_cifar.write(root)
    teacher_file(root)
    for split in ("train", "val"):
        for name in "ab":
            for number in range(12):
                path = root / "images" / split / name / f"{number}.jpg"
                jpeg_files.write(path, jpeg_files.jpeg(number, 32, 32))
    jpeg_files.aged(root / "images")
    return root


def words(tool: str, root: Path, out: Path, own: tuple[str, ...]) -> list[str]:
    """Words of a training into the run folder `out`, or of a writer of a cache there."""
    if tool == CACHE:
        common = [*KD, "data.batch_size=16", "cache.views=2", f"cache.out={out}", "runtime.device=cpu"]
    else:
        common = [
            *(*own, f"run.dir={out.parent}", f"run.name={out.name}", "optim.epochs=2", "runtime.threads=1"),
            *("runtime.device=cpu", "log.tensorboard=false", "run.checkpoint_steps=4"),
        ]
    last = {word.partition("=")[0]: word.replace("ROOT", str(root)) for word in common}
    return [*last.values()]
