"""Knowledge distillation on one page: a teacher, a student alone, and a student that learns from the teacher.

python examples/minimal_kd.py [--seed 0] [--epochs 9 4]

Plain PyTorch in one process, to be read from top to bottom; of the project it takes the embedded set and two networks.
pipeline/train.py does the same with every method, checkpoints, several ranks, and numbers that a restart repeats.
"""

import argparse
import math
import sys
from pathlib import Path

if __name__ == "__main__":  # run by path, from a checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])
from pipeline.datasets import ArraySet
from pipeline.datasets.synthetic import load_synthetic
from pipeline.models.build import build

# isort: split
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The embedded set's defaults (configs/dataset/synthetic.yaml, configs/method/kd.yaml). For CIFAR-100 it would be
# load_cifar100(root=...), padding 4, batches of 64, a rate of .05 with drops, KD_WEIGHT .9, and its own mean and std.
MEAN, STD, PADDING = 0.5, 0.25, 2  # of pixels in 0..1; pixels
BATCH, LR, WEIGHT_DECAY = 32, 0.1, 5e-4
T, CE_WEIGHT, KD_WEIGHT = 4.0, 0.1, 3.0
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Data = tuple[Tensor, Tensor]  # uint8 pixels_NCHW, int64 label_N


def load(split: str) -> Data:
    """`train` or `test`, on the device."""
    found = load_synthetic(split=split)
    assert isinstance(found, ArraySet)
    pixels_NCHW = torch.from_numpy(found.pixels_NHWC).permute(0, 3, 1, 2).contiguous()
    return pixels_NCHW.to(DEVICE), torch.from_numpy(found.label_N).to(DEVICE)


def augmented(pixels_BCHW: Tensor) -> Tensor:
    """Each image shifted at random within a black border, and mirrored in half of the cases."""
    padded_BCHW, side = F.pad(pixels_BCHW, [PADDING] * 4), pixels_BCHW.shape[-1]
    corners = torch.randint(2 * PADDING + 1, (len(pixels_BCHW), 2)).tolist()
    mirrored = (torch.rand(len(pixels_BCHW)) < 0.5).tolist()
    images = []
    for image_CHW, (top, left), mirror in zip(padded_BCHW, corners, mirrored, strict=True):
        cut_CHW = image_CHW[:, top : top + side, left : left + side]
        images.append(cut_CHW.flip(2) if mirror else cut_CHW)
    return torch.stack(images)


def normalised(pixels_BCHW: Tensor) -> Tensor:
    """float32 images, as networks take them."""
    return (pixels_BCHW / 255 - MEAN) / STD


def kd_loss(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """T^2 * KL(teacher || student) of the softened predictions, mean over the batch. Hinton et al. 2015, section 2."""
    log_p_BK, log_q_BK = F.log_softmax(student_BK / T, 1), F.log_softmax(teacher_BK / T, 1)
    return F.kl_div(log_p_BK, log_q_BK, reduction="batchmean", log_target=True) * T**2


def rate(epoch: float, epochs: int) -> float:
    """Learning rate after `epoch` finished epochs: one epoch of rise, then half a cosine down to zero."""
    return LR * min(epoch, 0.5 + 0.5 * math.cos(math.pi * max(epoch - 1, 0) / max(epochs - 1, 1)))


def train(network: nn.Module, data: Data, epochs: int, teacher: nn.Module | None = None) -> None:
    """Trains the network in place; with a teacher, by distillation."""
    pixels_NCHW, label_N = data
    optimizer = torch.optim.SGD(network.parameters(), LR, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    network.train()
    for epoch in range(epochs):
        batches = torch.randperm(len(label_N)).split(BATCH)
        for step, index_B in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate(epoch + step / len(batches), epochs)
            image_BCHW = normalised(augmented(pixels_NCHW[index_B]))
            logits_BK = network(image_BCHW).logits_BK
            loss = F.cross_entropy(logits_BK, label_N[index_B])
            if teacher is not None:
                with torch.no_grad():
                    taught_BK = teacher(image_BCHW).logits_BK
                loss = CE_WEIGHT * loss + KD_WEIGHT * kd_loss(logits_BK, taught_BK)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: Data) -> float:
    """Per cent of the images whose class the network names."""
    batches = zip(data[0].split(500), data[1].split(500), strict=True)
    right = [(network(normalised(p_BCHW)).logits_BK.argmax(1) == label_B).sum() for p_BCHW, label_B in batches]
    return 100 * float(sum(right)) / len(data[1])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, nargs=2, default=(9, 4), metavar=("TEACHER", "STUDENT"))
    asked = parser.parse_args()
    train_data, test_data = load("train"), load("test")

    def trained(name: str, model: str, epochs: int, teacher: nn.Module | None = None) -> nn.Module:
        torch.manual_seed(asked.seed)
        network = build(model, num_classes=20).to(DEVICE)
        train(network, train_data, epochs, teacher)
        print(f"{name} {model}: top1 {accuracy(network, test_data):.2f}", flush=True)
        return network

    teacher = trained("teacher", "resnet14", asked.epochs[0])
    trained("student alone", "resnet8", asked.epochs[1])
    trained("student distilled", "resnet8", asked.epochs[1], teacher)


if __name__ == "__main__":
    main()
