"""Training metrics: averages over the steps between two log rows and over the items of all processes.

docs/training.md explains every metric. Nothing here waits for the device until a row is due.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Bool, Float, Int
from torch import Tensor

HISTOGRAM_FRAMES = 32  # bins of the duration histogram where durations have no cap


def perplexity(counts: Int[Tensor, "*books rows"]) -> Float[Tensor, "*books"]:
    """Return the exponential of the entropy of code counts: K for K codes used equally often, 1 for no use at all."""
    counts = counts.double()
    shares = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.special.entr(shares).sum(dim=-1).exp()


@dataclass(eq=False)
class TrainingMetrics:
    """Metrics of the steps since the last row.

    Every process adds its own values; `row` is the one call that all processes have to make together.

    Attributes:
        num_codebooks: Acoustic ones.
        codebook_size: Rows of each.
        semantic_size: Rows of the semantic codebook; None if there is none.
        max_duration: Most frames per token; None for no cap, where the histogram's last bin counts all tokens of
            `HISTOGRAM_FRAMES` and more.
        base_frame_rate: Hz.
    """

    num_codebooks: int
    codebook_size: int
    semantic_size: int | None
    max_duration: int | None
    base_frame_rate: float

    def __post_init__(self) -> None:
        self.longest = HISTOGRAM_FRAMES if self.max_duration is None else self.max_duration
        self._histogram = torch.zeros(self.longest, dtype=torch.int64)
        self._clear()

    def _clear(self) -> None:
        self._events: dict[str, int] = defaultdict(int)
        self._sums: dict[str, list[tuple[Tensor | float, float]]] = defaultdict(list)  # by name, sums and their weights
        shapes = {
            "semantic": (0 if self.semantic_size is None else 1, self.semantic_size or 0),
            "acoustic": (self.num_codebooks, self.codebook_size),
            "durations": (self.longest + 1,),  # the first bin is padding
            "frames": (1,),
        }
        self._counts = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in shapes.items()}

    # ---------------------------------------------------------------------------------------------------- every step

    def add_losses(self, losses: dict[str, Float[Tensor, ""]], items: int, group: str = "loss") -> None:
        """Add losses of a batch, each a sum over its items; a row has "group/name", the mean over all items."""
        for name, value in losses.items():
            self._sums[f"{group}/{name}"].append((value.detach(), items))

    def add_value(self, name: str, value: Tensor | float) -> None:
        """Add a value such as a gradient norm; a row has the mean of the values added."""
        if isinstance(value, Tensor):
            value = value.detach()
        self._sums[name].append((value, 1))

    def add_count(self, name: str, count: int) -> None:
        """Count events; a row has their sum over all processes."""
        self._events[name] += count

    @torch.no_grad()
    def add_tokens(
        self,
        semantic: Int[Tensor, "batch tokens"] | None,
        acoustic: Int[Tensor, "batch codebooks tokens"],
        durations: Int[Tensor, "batch tokens"],
        num_codebooks: Int[Tensor, " batch"],
    ) -> None:
        """Count codes and durations of a batch.

        Args:
            semantic: Codes; None if there is no semantic codebook.
            acoustic: Codes.
            durations: Frames per token; 0 is padding and not counted.
            num_codebooks: Acoustic codebooks in use per item; codes of others are not counted.
        """
        valid = durations > 0
        if semantic is not None:
            self._count("semantic", semantic, valid)
        # One histogram for all acoustic codebooks: codebook k has the bins from k * codebook_size on.
        book = torch.arange(acoustic.shape[1], device=acoustic.device)[:, None]
        in_use = valid[:, None] & (book < num_codebooks.to(acoustic.device)[:, None, None])
        self._count("acoustic", acoustic + book * self.codebook_size, in_use)
        self._count("durations", durations.clamp(max=self.longest), valid)
        self._counts["frames"] = self._counts["frames"].to(durations.device) + durations.sum()

    def _count(self, name: str, bins: Int[Tensor, "*axes"], counted: Bool[Tensor, "*axes"]) -> None:
        """Add to a histogram; entries that are not counted add 0 to bin 0, which avoids indexing by a mask."""
        counts = self._counts[name].to(bins.device)
        bins = torch.where(counted, bins, 0)
        counts.view(-1).scatter_add_(0, bins.flatten().long(), counted.flatten().long())
        self._counts[name] = counts

    # ----------------------------------------------------------------------------------------------------- every row

    def row(self, accelerator: Accelerator) -> dict[str, float]:
        """Reduce over all processes, return the metrics and start again.

        Values that are not finite are left out of their means and counted as "non_finite".
        """
        row = self._means(accelerator)
        # Codebooks or durations that no process used are 0 everywhere, so that all processes reduce the same tensors.
        counts = {name: each.to(accelerator.device) for name, each in self._counts.items()}
        counts = {name: each.cpu() for name, each in accelerator.reduce(counts, reduction="sum").items()}
        self._histogram = counts["durations"][1:]
        self._clear()
        return row | self._codebook_use(counts) | self._durations(int(counts["frames"]))

    @property
    def duration_histogram(self) -> Int[Tensor, " durations"]:
        """Tokens of 1, 2, ... frames in the last row."""
        return self._histogram

    def _means(self, accelerator: Accelerator) -> dict[str, float]:
        names = [*self._sums, *self._events]
        if accelerator.num_processes > 1:  # an event may have happened in one process only
            names = gather_object(names)
        names = sorted(set(names))

        # One reduction of a table: a row of sum and weight per name, and a last row for values that are not finite.
        table: list[list[float]] = []
        non_finite = 0
        for name in names:
            if name in self._events:
                table.append(
                    [self._events[name], 1 / accelerator.num_processes]
                )  # the weights of all processes sum to 1
                continue
            entries = [(float(value), weight) for value, weight in self._sums.get(name, [])]
            finite = [(value, weight) for value, weight in entries if math.isfinite(value)]
            non_finite += len(entries) - len(finite)
            table.append([math.fsum(value for value, _ in finite), math.fsum(weight for _, weight in finite)])
        table.append([non_finite, 0])
        sent = torch.tensor(table, dtype=torch.float64, device=accelerator.device)
        *sums, (total_non_finite, _) = accelerator.reduce(sent, reduction="sum").tolist()

        means = {name: total / weight for name, (total, weight) in zip(names, sums, strict=True) if weight}
        return means | {"non_finite": total_non_finite}

    def _codebook_use(self, counts: dict[str, Int[Tensor, "..."]]) -> dict[str, float]:
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
        row = {
            "rate/frame_rate": tokens * self.base_frame_rate / frames,
            "codebook/tokens": float(tokens),
            "duration/mean": frames / tokens,
        }
        for duration, share in enumerate(self._histogram / tokens, start=1):
            row[f"duration/share_{duration}"] = float(share)
        return row
