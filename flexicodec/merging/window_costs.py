"""Costs of all possible tokens of a clip: every window of at most so many frames, tabulated once for all rates.

A table is float64 [longest, B, T + 1]: row `longest - duration` has, at every end (the first frame behind the window),
the cost of a token of that duration; inf where it would begin before the clip. `segmentation` finds the durations.
All costs of features are computed from the products x_s . x_t of frames less than `longest` apart.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CostTable = Float[np.ndarray, "longest batch ends"]
# Entry k, b, t: the product of frames t and t + k; 0 past the clip's end.
Products = Float[np.ndarray, "longest batch frames"]
Windows = list[Float[np.ndarray, "batch starts"]]  # costs of windows of 1, 2, ... frames, by their first frame
GRID = 2.0**-40  # of a clip's largest energy; see `round_costs`
BLOCK = 8  # frames whose products are one matrix product


def frame_products(
    features: Float[Tensor, "batch dim frames"], lengths: Int[Tensor, " batch"], longest: int, centred: bool = True
) -> tuple[Products, Float[np.ndarray, " batch"]]:
    """Multiply all pairs of frames less than `longest` apart, in float64 on the CPU.

    Clips are taken one by one: that is faster than a batch, which does not fit into the cache, and padding cannot
    matter.

    Args:
        features: Of one stream.
        lengths: Frames per item.
        longest: Frames of the longest window.
        centred: Subtract the clip's first frame from all: that changes no distance, and a common mean would cost
            precision.

    Returns:
        Products, and the mean of ||x_t||^2 over each clip's frames as they are (1 where that is 0).
    """
    num_frames = int(lengths.max())
    block = max(BLOCK, longest)
    blocks = max(1, -(-num_frames // block))
    width = block + longest - 1
    products = np.zeros((longest, len(features), blocks * block))
    energy = np.ones(len(features))
    for i, length in enumerate(lengths.tolist()):
        if not length:
            continue
        frames = features[i, :, :length].detach().to("cpu", torch.float64).T
        energy[i] = float(frames.square().sum()) / length or 1.0
        if centred:
            frames = frames - frames[:1]
        frames = F.pad(frames, (0, 0, 0, blocks * block + longest - 1 - length))
        # Each block of frames times itself and the frames behind it, of which entries i, i + k are wanted
        near = frames.unfold(0, width, block)  # [blocks, D, width]
        of_blocks = torch.matmul(near[..., :block].mT, near).contiguous()
        band = of_blocks.as_strided((longest, blocks, block), (1, block * width, width + 1))
        products[:, i] = band.reshape(longest, -1).numpy()
    return products[..., :num_frames], energy


def cost_table(windows: Windows, num_frames: int) -> CostTable:
    """Arrange costs of windows by their ends."""
    longest = len(windows)
    table = np.full((longest, len(windows[0]), num_frames + 1), np.inf)
    for duration, costs in enumerate(windows, start=1):
        table[longest - duration, :, duration:] = costs
    return table


def round_costs(table: CostTable, scale: Float[np.ndarray, " batch"]) -> CostTable:
    """Round costs to multiples of a power of two, far below a `scale` per clip.

    Sums of multiples are exact, so that segmentations of equal cost tie in whatever order they are summed; and equal
    frames cost exactly nothing.
    """
    exponent = np.frexp(np.maximum(scale, np.finfo(np.float32).tiny))[1]
    grid = np.ldexp(GRID, exponent)[None, :, None]
    rounded: CostTable = np.round(table / grid) * grid
    return rounded


# ---------------------------------------------------------------------------------------------- costs from the features


def squared_costs(products: Products) -> Windows:
    """Sum ||x_t - mean||^2 over each window's frames."""
    energies = products[0]
    own = energies  # sum of the frames' ||x_t||^2
    last = np.zeros_like(energies)  # product of the last frame with the sum of those before it
    square = energies  # ||sum of the frames||^2
    windows = [np.zeros_like(own)]
    for duration in range(2, len(products) + 1):
        added = energies[:, duration - 1 :]
        own = own[:, :-1] + added
        last = last[:, 1:] + products[duration - 1, :, : -(duration - 1)]
        square = square[:, :-1] + added + 2 * last
        windows.append(own - square / duration)
    return windows


def norm_costs(products: Products) -> Windows:
    """Sum ||x_t - mean||, not squared: the cost of CodecSlime's published re-implementations."""
    energies = products[0]
    num_frames = energies.shape[1]
    grid = GRID * energies.max(axis=1, initial=0.0)[:, None]
    windows: Windows = []
    sums: list[Float[np.ndarray, "batch starts"]] = []  # of frame i's products with all frames of the window
    for duration in range(1, len(products) + 1):
        count = num_frames - duration + 1
        newest = energies[:, duration - 1 :].copy()
        for i in range(duration - 1):
            pair = products[duration - 1 - i, :, i : i + count]
            sums[i] = sums[i][:, :count] + pair
            newest += pair
        sums.append(newest)
        square = sum(sums) / duration**2
        costs = np.zeros((len(energies), count))
        for i, each in enumerate(sums):
            distance = energies[:, i : i + count] - 2 * each / duration + square
            costs += np.sqrt(np.where(distance > grid, distance, 0.0))  # rounding grows under a root
        windows.append(costs)
    return windows


def hold_errors(products: Products) -> Windows:
    """Return ||x_(t + k) - x_t||^2 for k = 0, 1, ...: the errors of predicting that frames do not change."""
    energies = products[0]
    errors = []
    for ahead in range(len(products)):
        count = energies.shape[1] - ahead
        errors.append(energies[:, :count] + energies[:, ahead:] - 2 * products[ahead, :, :count])
    return errors


def rollout_costs(errors: Windows) -> Windows:
    """Sum the errors of predicting a token's frames from its first one."""
    costs = np.zeros_like(errors[0])
    windows = [costs]
    for error in errors[1:]:
        costs = costs[:, : error.shape[1]] + error
        windows.append(costs)
    return windows


def centroid_cosines(products: Products) -> Windows:
    """Return the cosine of each window's last frame with the mean of those before it; 0 where one of them is 0."""
    energies = products[0]
    last = np.zeros_like(energies)
    square = energies
    windows = [last]
    for duration in range(2, min(len(products), energies.shape[1]) + 1):
        added = energies[:, duration - 1 :]
        last = last[:, 1:] + products[duration - 1, :, : -(duration - 1)]
        norms = np.sqrt(np.maximum(square[:, :-1], 0.0) * added)
        windows.append(np.clip(np.where(norms > 0, last / np.where(norms > 0, norms, 1.0), 0.0), -1.0, 1.0))
        square = square[:, :-1] + added + 2 * last
    return windows


# --------------------------------------------------------------------------------------- costs from one value per frame


def mass_costs(masses: Float[np.ndarray, "batch frames"], longest: int) -> Windows:
    """Square each window's sum: with a given number of tokens, what makes these sums as equal as can be."""
    # The sum over tokens of (mass - M / N)^2 differs from the sum of mass^2 by M^2 / N, which no cut changes.
    total = np.zeros_like(masses)
    windows = []
    for duration in range(1, longest + 1):
        total = total[:, : masses.shape[1] - duration + 1] + masses[:, duration - 1 :]
        windows.append(total**2)
    return windows


def cut_costs(similarities: Float[np.ndarray, "batch pairs"], longest: int) -> Windows:
    """Charge each window for the similarity across its start; the clip's start is free."""
    starts = np.pad(similarities, ((0, 0), (1, 0)))
    return [starts[:, : starts.shape[1] - duration + 1] for duration in range(1, longest + 1)]
