"""How rows of teacher outputs are stored: which arrays, how they are packed and read back, how far they may be off."""

import math
from collections.abc import Mapping
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from pipeline.contracts import InputError

# Of the largest value: what two runs of one network may differ by (batch, threads, memory layout), by autocast type, or
# with TF32: up to 1.1e-3 seen, 2e-3 against float32; a shift by one pixel makes 3e-2 to 1e-1 (resnet32x4).
TF32 = "tf32"
NOISE = {"off": 1e-5, "bf16": 3e-2, "fp16": 4e-3, TF32: 5e-3}
AUTOCAST = NOISE.keys() - {TF32}
HALF = 2.0**-11  # half the distance of neighbouring float16 numbers, relative
LEAST_HALF = 2.0**-25  # the same among the smallest ones
Packed = dict[str, Tensor]


class Codec(Protocol):
    """One way of storing rows [B, K]. lossy: whole classes may be missing. parts: dtype of its arrays by suffix."""

    @property
    def lossy(self) -> bool: ...

    @property
    def parts(self) -> Mapping[str, torch.dtype]: ...

    def columns(self, width: int) -> dict[str, int]:
        """Numbers a row takes in each array, for K = width."""

    def pack(self, rows_BK: Tensor) -> Packed:
        """float32 rows as arrays by suffix. Raises InputError where they do not fit."""

    def unpack(self, packed: Mapping[str, Tensor], width: int) -> Tensor:
        """float32 [B, K]."""

    def allowed(self, rows_BK: Tensor) -> Tensor:
        """[B, K] largest error that storing may cause, besides float32 noise; inf where nothing is promised."""


class Plain:
    """float32 as it is."""

    lossy: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, torch.dtype]] = {"": torch.float32}

    def columns(self, width: int) -> dict[str, int]:
        return {"": width}

    def pack(self, rows_BK: Tensor) -> Packed:
        return {"": rows_BK}

    def unpack(self, packed: Mapping[str, Tensor], width: int) -> Tensor:
        return packed[""]

    def allowed(self, rows_BK: Tensor) -> Tensor:
        return torch.zeros_like(rows_BK)


class Half:
    """float16: 11 significant bits."""

    lossy: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, torch.dtype]] = {"": torch.float16}

    def columns(self, width: int) -> dict[str, int]:
        return {"": width}

    def pack(self, rows_BK: Tensor) -> Packed:
        half_BK = rows_BK.half()
        if not half_BK.isfinite().all():
            raise InputError(f"outputs up to {rows_BK.abs().max():.3g} do not fit into float16: use cache.dtype=fp32")
        return {"": half_BK}

    def unpack(self, packed: Mapping[str, Tensor], width: int) -> Tensor:
        return packed[""].float()

    def allowed(self, rows_BK: Tensor) -> Tensor:
        return rows_BK.abs() * HALF + LEAST_HALF


class Bytes:
    """int8 with a float32 scale per row: z = scale * q, |q| <= 127."""

    lossy: ClassVar[bool] = False
    parts: ClassVar[Mapping[str, torch.dtype]] = {"": torch.int8, ".scale": torch.float32}

    def columns(self, width: int) -> dict[str, int]:
        return {"": width, ".scale": 1}

    def pack(self, rows_BK: Tensor) -> Packed:
        scale_B1 = rows_BK.abs().amax(dim=1, keepdim=True) / 127
        steps_BK = (rows_BK / scale_B1.clamp(min=torch.finfo(torch.float32).tiny)).round().clamp(-127, 127)
        return {"": steps_BK.to(torch.int8), ".scale": scale_B1}

    def unpack(self, packed: Mapping[str, Tensor], width: int) -> Tensor:
        return packed[""].float() * packed[".scale"]

    def allowed(self, rows_BK: Tensor) -> Tensor:
        return (rows_BK.abs().amax(dim=1, keepdim=True) / 254).expand_as(rows_BK)


class TopK:
    """The k largest as float16, and log sum exp of the others, among which it is spread evenly on reading. Lossy.

    At T = 1 the stored classes keep their probabilities; at other temperatures nothing is promised.
    """

    lossy: ClassVar[bool] = True
    parts: ClassVar[Mapping[str, torch.dtype]] = {
        "": torch.float16,
        ".index": torch.int32,
        ".rest": torch.float32,
    }

    def __init__(self, k: int) -> None:
        self.k = k

    def columns(self, width: int) -> dict[str, int]:
        if not 1 <= self.k < width:
            raise InputError(f"cache.k={self.k} of {width} classes: give 1 to {width - 1}")
        return {"": self.k, ".index": self.k, ".rest": 1}

    def pack(self, rows_BK: Tensor) -> Packed:
        # Stable: equal values would otherwise be chosen by chance.
        index_BK = rows_BK.argsort(dim=1, descending=True, stable=True)
        chosen_Bk, others = index_BK[:, : self.k], index_BK[:, self.k :]
        rest_B1 = rows_BK.gather(1, others).logsumexp(dim=1, keepdim=True)
        return {
            "": Half().pack(rows_BK.gather(1, chosen_Bk))[""],
            ".index": chosen_Bk.to(torch.int32),
            ".rest": rest_B1,
        }

    def unpack(self, packed: Mapping[str, Tensor], width: int) -> Tensor:
        even_B1 = packed[".rest"] - math.log(width - self.k)
        rows_BK = even_B1.expand(-1, width).clone()
        return rows_BK.scatter_(1, packed[".index"].long(), packed[""].float())

    def allowed(self, rows_BK: Tensor) -> Tensor:
        largest_BK = rows_BK.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        bound_BK = torch.full_like(rows_BK, torch.inf)
        return bound_BK.scatter(1, largest_BK, Half().allowed(rows_BK).gather(1, largest_BK))


DTYPES: Mapping[str, type[Plain] | type[Half] | type[Bytes]] = {"fp32": Plain, "fp16": Half, "int8": Bytes}
POOLED = {"fp32": "fp32", "fp16": "fp16", "int8": "fp16", "topk": "fp16"}  # how pooled vectors are stored beside logits


def codec_of(dtype: str, k: int = 0) -> Codec:
    """fp32, fp16, int8 or topk (of k classes). Raises InputError for another name."""
    if dtype == "topk":
        return TopK(k)
    if dtype not in DTYPES:
        raise InputError(f"records of type {dtype!r} are unknown (known: {', '.join([*DTYPES, 'topk'])})")
    return DTYPES[dtype]()


def rounding(amp: str, *tf32: str) -> str:
    """The entry of NOISE for two runs under an autocast. tf32: of each, "off" or where it is in force."""
    return TF32 if amp == "off" and any(one != "off" for one in tf32) else amp


def errors(found_BK: Tensor, wanted_BK: Tensor, codec: Codec, noise_of: str = "off") -> tuple[float, float]:
    """(largest |difference|, largest |difference| / what is allowed) where anything is promised.

    noise_of: see `rounding`.
    """
    noise = NOISE[noise_of] * wanted_BK.abs().max()
    gap_BK = (found_BK - wanted_BK).abs()
    share_BK = gap_BK / (codec.allowed(wanted_BK) + noise).clamp(min=torch.finfo(torch.float32).tiny)
    promised_BK = codec.allowed(wanted_BK).isfinite()
    return gap_BK[promised_BK].max().item(), share_BK[promised_BK].max().item()
