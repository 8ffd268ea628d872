"""What storing a row may change."""

import pytest
import torch

from pipeline.contracts import InputError
from pipeline.teachers.codecs import Bytes, Half, Plain, TopK, codec_of, errors


def rows(scale: float = 5.0, count: int = 64, width: int = 50) -> torch.Tensor:
    """Seeded logits, among them a row of zeros, one of equal values and one of tiny ones."""
    z = scale * torch.randn(count, width, generator=torch.Generator().manual_seed(2))
    z[0], z[1], z[2] = 0, 3.5, z[2] * 1e-6
    return z


@pytest.mark.parametrize("codec", [Plain(), Half(), Bytes(), TopK(7)], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("scale", [1e-3, 5.0, 300.0])
def test_errors_stay_within_what_is_allowed(codec: object, scale: float) -> None:
    z = rows(scale)
    back = codec.unpack(codec.pack(z), z.shape[1])
    assert back.dtype == torch.float32 and back.isfinite().all()
    inside = (back - z).abs() <= codec.allowed(z) * (1 + 1e-6)
    assert inside.all()
    gap, share = errors(back, z, codec)
    assert share <= 1 and gap >= 0
    worse = z + 2 * codec.allowed(z).clamp(max=scale) + 1e-4 * z.abs().max()
    assert errors(worse, z, codec)[1] > 1


def test_float32_is_kept_bit_for_bit() -> None:
    assert torch.equal(Plain().unpack(Plain().pack(rows()), 50), rows())


def test_outputs_beyond_float16_are_refused() -> None:
    with pytest.raises(InputError, match="7e\\+04 do not fit into float16"):
        Half().pack(torch.tensor([[7e4, 0.0]]))


def test_the_largest_classes_keep_their_probabilities_at_temperature_one() -> None:
    z = rows(4.0)
    back = TopK(5).unpack(TopK(5).pack(z), z.shape[1])
    top = z.topk(5).indices[3:]
    p, q = (x.double().softmax(1)[3:].gather(1, top) for x in (z, back))
    assert (p - q).abs().max() < 2e-3  # float16 logits
    assert torch.equal(back.argmax(1)[3:], z.argmax(1)[3:])


def test_unknown_types_and_impossible_numbers_of_classes() -> None:
    with pytest.raises(InputError, match="'fp8' are unknown"):
        codec_of("fp8")
    for k in (0, 10):
        with pytest.raises(InputError, match=f"cache.k={k} of 10"):
            codec_of("topk", k).columns(10)
