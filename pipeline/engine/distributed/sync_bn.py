"""Batch norm over the global batch on CPU ranks; torch's SyncBatchNorm takes CUDA tensors only."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics are those of all ranks' rows together, however uneven."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        count = input.new_full((1,), float(input.numel() // input.shape[1]))
        local = torch.cat([input.sum((0, 2, 3)), (input * input).sum((0, 2, 3)), count])
        total = all_reduce(local)
        channels = input.shape[1]
        mean_C = total[:channels] / total[-1]
        var_C = (total[channels : 2 * channels] / total[-1] - mean_C * mean_C).clamp_min(0)
        self._track(mean_C.detach(), var_C.detach(), total[-1].detach())
        scale_C = torch.rsqrt(var_C + self.eps)
        if self.weight is not None:
            scale_C = scale_C * self.weight
        shifted = (input - mean_C.view(1, -1, 1, 1)) * scale_C.view(1, -1, 1, 1)
        return shifted if self.bias is None else shifted + self.bias.view(1, -1, 1, 1)

    @torch.no_grad()
    def _track(self, mean_C: Tensor, var_C: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C, weight)
        self.running_var.lerp_(var_C * count / (count - 1), weight)


def with_global_statistics(network: nn.Module) -> nn.Module:
    """`network` with every nn.BatchNorm2d replaced by its global form, which shares its parameters and buffers."""
    for name, child in network.named_children():
        if type(child) is nn.BatchNorm2d:
            twin = GlobalBatchNorm2d(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            twin.__dict__.update(child.__dict__)
            setattr(network, name, twin)
        else:
            with_global_statistics(child)
    return network
