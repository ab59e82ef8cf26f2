"""Short clips for tests of policies, all ways to cut them, and costs of tokens written out."""

import itertools
import math

import torch

from flexicodec.merging import cosine_similarities


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips(lengths, dim=4, seed=0, held=0.0, extra=0):
    """Features, similarities, lengths, seconds at 1 frame per second; a share `held` of the frames repeats the last."""
    lengths = torch.tensor(lengths)
    x = noise(len(lengths), dim, int(lengths.max()) + extra, seed=seed)
    repeats = torch.rand(x.shape[::2], generator=torch.Generator().manual_seed(seed)) < held
    for t in range(1, x.shape[-1]):
        x[:, :, t] = torch.where(repeats[:, t, None], x[:, :, t - 1], x[:, :, t])
    return x, cosine_similarities(x, lengths), lengths, lengths.double()


def segmentations(num_frames, cap):
    """Every way to cut a clip into tokens of at most `cap` frames."""
    for cuts in itertools.product([False, True], repeat=num_frames - 1):
        edges = [0, *(t for t, cut in enumerate(cuts, 1) if cut), num_frames]
        durations = [b - a for a, b in itertools.pairwise(edges)]
        if cap is None or max(durations) <= cap:
            yield durations


def rows(durations):
    return [[d for d in row if d] for row in durations.tolist()]


def rate_for(counts, lengths):
    """The rates that ask for so many tokens of clips at 1 frame per second."""
    return [count / length for count, length in zip(counts, lengths, strict=True)]


def fewest(num_frames, cap):
    return 1 if cap is None else math.ceil(num_frames / cap)
