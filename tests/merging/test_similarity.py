"""Laws of the similarity of neighbouring frames."""

import pytest
import torch
import torch.nn.functional as F

from flexicodec.merging import Threshold, cosine_similarities


def features(batch, dim, frames, seed=0):
    return torch.randn(batch, dim, frames, generator=torch.Generator().manual_seed(seed))


def test_equals_torch_where_all_frames_are_valid():
    x = features(3, 16, 21)
    expected = F.cosine_similarity(x[..., :-1], x[..., 1:], dim=1, eps=1e-8)
    torch.testing.assert_close(cosine_similarities(x), expected, rtol=0, atol=1e-6)


def test_axes_of_equal_size_are_not_confused():
    x = features(5, 5, 5)
    expected = torch.stack([F.cosine_similarity(x[:, :, t], x[:, :, t + 1], dim=1) for t in range(4)], dim=1)
    torch.testing.assert_close(cosine_similarities(x), expected, rtol=0, atol=1e-6)


def test_padding_gives_zero_and_does_not_matter():
    x, lengths = features(4, 8, 12), torch.tensor([12, 7, 1, 0])
    garbage = x.clone()
    for i, length in enumerate(lengths):
        garbage[i, :, length:] = float("nan")
    similarities = cosine_similarities(garbage, lengths)
    assert torch.equal(similarities, cosine_similarities(x, lengths))
    for i, length in enumerate(lengths.tolist()):
        assert (similarities[i, max(length - 1, 0) :] == 0).all()
        if length:
            alone = cosine_similarities(x[i : i + 1, :, :length])[0]
            assert torch.equal(similarities[i, : length - 1], alone)


def test_a_single_frame_has_no_similarities():
    assert cosine_similarities(features(2, 8, 1)).shape == (2, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computed_in_float32(dtype):
    x = features(1, 512, 9).to(dtype)
    assert torch.equal(cosine_similarities(x), cosine_similarities(x.float()))


def test_equal_frames_never_exceed_one():
    held = features(2000, 32, 1).expand(-1, -1, 2)
    rounded = F.cosine_similarity(held[..., 0], held[..., 1], dim=1)
    assert (rounded > 1).any(), "the law below would be empty"
    similarities = cosine_similarities(held)
    assert similarities.max() == 1
    assert (Threshold(1.0)(similarities, torch.full((2000,), 2)) == 1).all()


def test_zero_frames_resemble_nothing():
    assert (cosine_similarities(torch.zeros(1, 4, 3)) == 0).all()
