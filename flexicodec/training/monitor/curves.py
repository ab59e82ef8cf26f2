"""The curves of a run: averages over the steps between two rows, and over the items of all processes.

They answer what users ask when they ask "is my loss normal?"; docs/training.md says what each curve means. Nothing here
waits for the device until a row is due.
"""

import math
from collections import defaultdict

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, Int
from torch import Tensor

LONGEST_SHOWN = 32  # frames: bins of the duration histogram where durations have no cap


def perplexity(counts: Int[Tensor, "*books rows"]) -> Float[Tensor, "*books"]:
    """Say how many codes of a codebook are in use, were they used evenly: the exponential of their entropy.

    K codes used equally often give K, a single one gives 1, and no use at all gives 1.
    """
    counts = counts.double()
    shares = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(dim=-1).exp()


class Curves:
    """What is worth knowing about the steps since the last row.

    Every process adds what it sees; `row` is the one call that all processes have to make together.

    Args:
        num_codebooks: Acoustic ones.
        codebook_size: Rows of each.
        semantic_size: Rows of the semantic codebook; None where there is none.
        max_duration: Most frames a token may hold; None for no cap, where the histogram's last bin takes all of
            `LONGEST_SHOWN` frames and more.
        base_frame_rate: Frames per second, Hz.
    """

    def __init__(
        self,
        num_codebooks: int,
        codebook_size: int,
        semantic_size: int | None,
        max_duration: int | None,
        base_frame_rate: float,
    ) -> None:
        self.num_codebooks, self.codebook_size, self.semantic_size = num_codebooks, codebook_size, semantic_size
        self.longest = LONGEST_SHOWN if max_duration is None else max_duration
        self.base_frame_rate = base_frame_rate
        self._histogram = torch.zeros(self.longest, dtype=torch.int64)
        self._clear()

    def _clear(self) -> None:
        self._events: dict[str, int] = defaultdict(int)
        self._sums: dict[str, list[tuple[Tensor | float, float]]] = defaultdict(list)  # name: sums and their weights
        shapes = {
            "semantic": (0 if self.semantic_size is None else 1, self.semantic_size or 0),
            "acoustic": (self.num_codebooks, self.codebook_size),
            "durations": (self.longest + 1,),  # the first bin is padding
            "frames": (1,),
        }
        self._counts = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}

    # ---------------------------------------------------------------------------------------------------- every step

    def add_losses(self, losses: dict[str, Float[Tensor, ""]], items: int, group: str = "loss") -> None:
        """Add one batch's losses, each a sum over the batch's items; a row has the mean over all items.

        Args:
            losses: By name; a batch may lack some.
            items: Of the batch.
            group: Put in front of the names, as in "loss/mel".
        """
        for name, value in losses.items():
            self._sums[f"{group}/{name}"].append((value.detach(), items))

    def add_value(self, name: str, value: Tensor | float) -> None:
        """Add one value, such as a gradient norm; a row has the mean of those that were added."""
        self._sums[name].append((value.detach() if isinstance(value, Tensor) else value, 1))

    def add_count(self, name: str, count: int) -> None:
        """Count events; a row has how many there were in all processes."""
        self._events[name] += count

    @torch.no_grad()
    def add_tokens(
        self,
        semantic: Int[Tensor, "batch tokens"] | None,
        acoustic: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: Int[Tensor, " batch"],
    ) -> None:
        """Count codes and durations of one batch.

        Args:
            semantic: Codes; None where there is no semantic codebook.
            acoustic: Codes; those of codebooks that an item did not use are not counted.
            durations: Frames per token; 0 is padding and not counted.
            num_codebooks: Acoustic codebooks that each item used.
        """
        valid = durations > 0
        if semantic is not None:
            self._count("semantic", semantic, valid)
        book = torch.arange(acoustic.shape[1], device=acoustic.device)[:, None]
        used = valid[:, None] & (book < num_codebooks.to(acoustic.device)[:, None, None])
        self._count("acoustic", acoustic + book * self.codebook_size, used)
        self._count("durations", durations.clamp(max=self.longest), valid)
        self._counts["frames"] = self._counts["frames"].to(durations.device) + durations.sum()

    def _count(self, name: str, places: Int[Tensor, "*axes"], counted: Bool[Tensor, "*axes"]) -> None:
        counts = self._counts[name] = self._counts[name].to(places.device)
        where = torch.where(counted, places, 0).flatten().long()  # what is not counted adds nothing to place 0
        counts.view(-1).scatter_add_(0, where, counted.flatten().long())

    # ----------------------------------------------------------------------------------------------------- every row

    def row(self, accelerator: Accelerator) -> dict[str, float]:
        """Sum up over all processes, and start anew.

        Values that are not finite are left out of their means and counted as "non_finite"; curves nothing was added to
        are missing.
        """
        row = self._means(accelerator)
        reduced = accelerator.reduce(
            {name: counts.to(accelerator.device) for name, counts in self._counts.items()}, reduction="sum"
        )
        counts = {name: each.cpu() for name, each in reduced.items()}
        self._histogram = counts["durations"][1:]
        self._clear()
        return row | self._codebooks(counts) | self._durations(int(counts["frames"]))

    @property
    def duration_histogram(self) -> Int[Tensor, " durations"]:
        """Tokens of 1, 2, ... frames in the last row."""
        return self._histogram

    def _means(self, accelerator: Accelerator) -> dict[str, float]:
        names = [*self._sums, *self._events]
        if accelerator.num_processes > 1:  # an event may have happened in one process only
            names = gather_object(names)
        names = sorted(set(names))
        rows, left_out = [], 0
        for name in names:
            if name in self._events:
                rows.append([self._events[name], 1 / accelerator.num_processes])
                continue
            entries = [(float(value), weight) for value, weight in self._sums.get(name, [])]
            finite = [entry for entry in entries if math.isfinite(entry[0])]
            left_out += len(entries) - len(finite)
            rows.append([math.fsum(value for value, _ in finite), math.fsum(weight for _, weight in finite)])
        table = torch.tensor([*rows, [left_out, 0]], dtype=torch.float64, device=accelerator.device)
        *sums, (bad, _) = accelerator.reduce(table, reduction="sum").tolist()
        means = {name: total / weight for name, (total, weight) in zip(names, sums, strict=True) if weight}
        return means | {"non_finite": bad}

    def _codebooks(self, counts: dict[str, Int[Tensor, "..."]]) -> dict[str, float]:
        names = [f"acoustic_{book:02d}" for book in range(1, self.num_codebooks + 1)]
        if self.semantic_size is not None:
            names.insert(0, "semantic")
        row = {}
        for name, used in zip(names, [*counts["semantic"], *counts["acoustic"]], strict=True):
            if used.any():
                row[f"codebook/{name}/perplexity"] = float(perplexity(used))
                row[f"codebook/{name}/use"] = float((used > 0).double().mean())
        return row

    def _durations(self, frames: int) -> dict[str, float]:
        tokens = int(self._histogram.sum())
        if tokens == 0:
            return {}
        shares = {f"duration/share_{number}": float(each) for number, each in enumerate(self._histogram / tokens, 1)}
        rate = tokens * self.base_frame_rate / frames
        return {"rate/frame_rate": rate, "codebook/tokens": float(tokens), "duration/mean": frames / tokens, **shares}
