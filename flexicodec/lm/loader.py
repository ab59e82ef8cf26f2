"""Packed rows for training: every clip once an epoch, whole, in an order that depends on the seed alone.

A row is a function of (epoch, number): clips are permuted by Philox(seed, epoch) and put into rows of a fixed length
one after the other, a clip that does not fit begins the next row. So any worker of any rank can make any row, and the
state of a run is two integers: the epoch, and how many of its rows were handed out.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset

from flexicodec.lm.batches import PackedBatch
from flexicodec.lm.codes import spans
from flexicodec.lm.layout import Layout
from flexicodec.lm.packed import PackedTokens
from flexicodec.token_format import check_kept

_BLOCK = 100_000  # clips whose lengths are counted at a time
_SOURCES = 2**32  # stream of random numbers that chooses datasets; those below permute clips
_log = logging.getLogger(__name__)


class PackedDataset(Dataset[dict[str, np.ndarray]]):
    """Rows of packed corpora, by (epoch, number).

    Attributes:
        num_cut: Clips longer than a row, of which only the beginning is used.
    """

    def __init__(
        self,
        packed: PackedTokens | Sequence[PackedTokens],
        layout: Layout,
        row_length: int,
        *,
        seed: int = 0,
        weights: Sequence[float] | None = None,
        rate_ids: bool = True,
        text: Literal["before", "after"] | None = None,
    ):
        """Count the ids of every clip.

        Args:
            packed: One corpus or several, all of the layout's codec.
            row_length: Steps of a row.
            weights: Share of the rows that each corpus gets; a row's corpus is drawn at random. None: every clip of
                every corpus once an epoch.
            rate_ids: Write the id of its corpus's rate before every clip; delayed layouts have none.
            text: Write the clip's text, between TEXT and END_TEXT, before or behind its speech.
        """
        self.packed = [packed] if isinstance(packed, PackedTokens) else list(packed)
        self.layout = layout
        self.row_length = row_length
        self.seed = seed
        self.weights = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        self.rate_ids = rate_ids and not layout.is_delayed
        self.text = text
        self._check()
        self.lengths = [self._lengths(each) for each in self.packed]
        self.num_cut = sum(int((each > row_length).sum()) for each in self.lengths)
        if self.num_cut:
            lost = sum(int((each - row_length).clip(min=0).sum()) for each in self.lengths)
            _log.warning(f"{self.num_cut} clips are longer than a row of {row_length} steps; {lost} steps are cut off")
        self._plans: dict[int, _EpochPlan] = {}

    def _check(self) -> None:
        layout = self.layout
        if self.row_length < 2 or not self.packed:
            raise ValueError(
                f"rows of {self.row_length} steps from {len(self.packed)} corpora; expected at least 2 and 1"
            )
        if self.weights is not None and (len(self.weights) != len(self.packed) or not (self.weights > 0).all()):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.packed)} corpora, expected one above 0 for each"
            )
        for each in self.packed:
            layout.vocabulary.check_format(each.vocabulary.format)
            try:
                check_kept(layout.num_codebooks, each.vocabulary.num_codebooks, layout.vocabulary.format)
            except ValueError as error:
                raise ValueError(f"{layout.name} does not fit {each.folder}: {error}") from error
            if self.text is not None and (each.text is None or layout.is_delayed):
                reason = (
                    "delayed layouts have no ids for it" if layout.is_delayed else f"{each.folder} was packed without"
                )
                raise ValueError(f"text={self.text!r} is asked, and {reason}")
            if self.text is not None and each.vocabulary.base > layout.vocabulary.base:
                raise ValueError(
                    f"{each.folder} has text of base {each.vocabulary.base}, the layout's vocabulary "
                    f"{layout.vocabulary.base}"
                )

    def _lengths(self, packed: PackedTokens) -> Int[np.ndarray, " clips"]:
        """Count the steps of every clip, block by block."""
        overhead = sum(self.layout.overhead(True, self.rate_ids))
        lengths = np.full(packed.num_clips, overhead, np.int64)
        for start in range(0, packed.num_clips, _BLOCK):
            offsets = packed.offsets[start : start + _BLOCK + 1]
            durations = np.ones(offsets[-1] - offsets[0], np.uint8)
            if packed.durations is not None:
                durations = packed.durations[offsets[0] : offsets[-1]]
            widths = self.layout.widths(durations)
            lengths[start : start + _BLOCK] += np.add.reduceat(widths, offsets[:-1] - offsets[0])
        if self.text is not None:
            assert packed.text_offsets is not None
            lengths += np.diff(packed.text_offsets) + 2
        return lengths

    # ---------------------------------------------------------------------------------------------- rows of an epoch

    def num_rows(self, epoch: int) -> int:
        """Count the rows of an epoch; it differs a little between epochs."""
        return len(self._plan(epoch).source)

    def clips(self, epoch: int, row: int) -> tuple[int, Int[np.ndarray, " clips"]]:
        """Return the number of the corpus that a row is from, and its clips."""
        plan = self._plan(epoch)
        source = int(plan.source[row])
        order, starts = plan.rows[source]
        at = int(plan.number[row])
        return source, order[starts[at] : starts[at + 1]]

    def _plan(self, epoch: int) -> "_EpochPlan":
        if epoch not in self._plans:
            while len(self._plans) > 1:  # a batch may need two epochs
                del self._plans[min(self._plans)]
            self._plans[epoch] = _EpochPlan(self.lengths, self.row_length, self.seed, epoch, self.weights)
        return self._plans[epoch]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_plans": {}}

    def __len__(self) -> int:
        """Count the rows of the first epoch."""
        return self.num_rows(0)

    # -------------------------------------------------------------------------------------------------------- a row

    def __getitem__(self, key: tuple[int, int]) -> dict[str, np.ndarray]:
        """Make a row: `ids`, `document`, `position`, `kinds` and `frame_rate`, as in `PackedBatch`."""
        source, clips = self.clips(*key)
        packed = self.packed[source]
        layout = self.layout
        codes = packed.codes(clips, layout.num_codebooks)
        rates = np.full(len(clips), self._rate_id(packed)) if self.rate_ids else None
        written, lengths = layout.arrange(codes, rates=rates)
        if self.text is not None:
            written, lengths = self._with_text(packed, clips, written, lengths)
        frames = np.add.reduceat(codes.durations, np.cumsum(codes.counts) - codes.counts, dtype=np.int64)
        frame_rates = codes.counts / frames * layout.vocabulary.format.base_frame_rate

        # A clip that is longer than a row is alone in it, and cut.
        length = min(written.shape[1], self.row_length)
        ids = np.empty((len(layout.streams), self.row_length), np.int64)
        kinds = np.empty(ids.shape, np.uint8)
        for row, stream in enumerate(layout.streams):
            ids[row, :length] = written[row, :length]
            ids[row, length:] = stream.hole
            kinds[row] = layout.kind_tables[row][ids[row]]
        # document   0 0 0 1 1 -1 -1       -1 also finds the last entry of starts and rates, which is that of padding
        document = np.full(self.row_length, -1)
        document[:length] = np.repeat(np.arange(len(clips)), lengths)[:length]
        starts = np.append(np.cumsum(lengths) - lengths, length)
        position = np.arange(self.row_length) - starts[document]
        rate = np.append(frame_rates, 0.0).astype(np.float32)[document]
        if not layout.is_delayed:
            ids, kinds = ids[0], kinds[0]
        return {"ids": ids, "document": document, "position": position, "kinds": kinds, "frame_rate": rate}

    def _rate_id(self, packed: PackedTokens) -> int:
        return packed.rate_id - packed.vocabulary.base + self.layout.vocabulary.base

    def _with_text(
        self,
        packed: PackedTokens,
        clips: Int[np.ndarray, " clips"],
        speech: Int[np.ndarray, "1 steps"],
        lengths: Int[np.ndarray, " clips"],
    ) -> tuple[Int[np.ndarray, "1 steps"], Int[np.ndarray, " clips"]]:
        """Put the text of each clip before or behind its speech."""
        assert packed.text is not None
        assert packed.text_offsets is not None
        begin = packed.text_offsets[clips]
        counts = packed.text_offsets[clips + 1] - begin
        total = lengths + counts + 2
        starts = np.cumsum(total) - total
        text_starts = starts if self.text == "before" else starts + lengths
        speech_starts = starts + counts + 2 if self.text == "before" else starts
        ids = np.empty(int(total.sum()), np.int64)
        ids[text_starts] = self.layout.vocabulary.special("TEXT")
        ids[spans(text_starts + 1, counts)] = packed.text[spans(begin, counts)]
        ids[text_starts + counts + 1] = self.layout.vocabulary.special("END_TEXT")
        ids[spans(speech_starts, lengths)] = speech[0]
        return ids[None], total


class _EpochPlan:
    """Which clips each row of an epoch has.

    Attributes:
        source: Corpus of each row.
        number: Number of the row among those of its corpus.
        rows: For each corpus its clips in their order, and where in it each row starts.
    """

    def __init__(
        self,
        lengths: Sequence[Int[np.ndarray, " clips"]],
        row_length: int,
        seed: int,
        epoch: int,
        weights: np.ndarray | None,
    ):
        def random(stream: int, again: int = 0) -> np.random.Generator:
            return np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, again, stream]))

        def shuffled_rows(source: int, again: int) -> tuple[np.ndarray, np.ndarray]:
            order = random(source, again).permutation(len(lengths[source]))
            return order, next_fit(lengths[source][order], row_length)

        self.rows = [shuffled_rows(source, 0) for source in range(len(lengths))]
        counts = [len(starts) - 1 for _, starts in self.rows]
        if weights is None:
            self.source = random(_SOURCES).permutation(np.repeat(np.arange(len(counts)), counts))
        else:
            self.source = random(_SOURCES).choice(len(counts), sum(counts), p=weights)
        self.number = np.empty(len(self.source), np.int64)
        for source in range(len(counts)):
            chosen = self.source == source
            self.number[chosen] = np.arange(int(chosen.sum()))
            again = 0
            while len(self.rows[source][1]) - 1 < chosen.sum():  # drawn more often than it has rows: shuffled again
                again += 1
                order, starts = self.rows[source]
                more, its_starts = shuffled_rows(source, again)
                self.rows[source] = np.append(order, more), np.append(starts, its_starts[1:] + len(order))


def next_fit(lengths: Int[np.ndarray, " clips"], row_length: int) -> Int[np.ndarray, " bounds"]:
    """Fill rows with clips in this order; return the first clip of each row, and the number of clips at the end.

    A clip that does not fit into a row begins the next; one that is longer than a row has one of its own.
    """
    ends = np.cumsum(np.minimum(lengths, row_length))
    starts = [0]
    filled = 0
    while starts[-1] < len(lengths):
        after = int(np.searchsorted(ends, filled + row_length, side="right"))
        starts.append(after)
        filled = int(ends[after - 1])
    return np.array(starts)


class PackedLoader:
    """Endless batches of a rank, with a state of two integers that any number of workers and ranks can go on from.

    Batches are made by workers ahead of the training loop; the state counts those that were handed out. A global batch
    of `batch_size` rows is split over the ranks, and one may begin in an epoch and end in the next.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
    ):
        """Start at the first row.

        Args:
            batch_size: Rows of all ranks together, a multiple of `world_size`.
        """
        if batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"a batch of {batch_size} rows for rank {rank} of {world_size}; expected a multiple of the world size"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.epoch = 0
        self.row = 0

    def state_dict(self) -> dict[str, int]:
        """Return where the run stands: the epoch, and its rows handed out to all ranks."""
        return {"epoch": self.epoch, "row": self.row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state; the next iterator begins there."""
        if set(state) != {"epoch", "row"} or min(state.values()) < 0:
            raise ValueError(f"state is {state}, expected epoch and row, 0 or more")
        if state["row"] >= self.dataset.num_rows(state["epoch"]):
            raise ValueError(
                f"row {state['row']} of epoch {state['epoch']}, which has {self.dataset.num_rows(state['epoch'])}; "
                "is this the state of another dataset, layout or row length?"
            )
        self.epoch = state["epoch"]
        self.row = state["row"]

    def __iter__(self) -> Iterator[PackedBatch]:
        batches: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=_RankBatches(self),
            num_workers=self.workers,
            collate_fn=PackedBatch.collate,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # the global one would be advanced
        )
        for batch in batches:
            self.epoch, self.row = self._after(self.epoch, self.row)
            yield batch

    def _after(self, epoch: int, row: int) -> tuple[int, int]:
        """Return where the batch behind this one begins."""
        row += self.batch_size
        while row >= self.dataset.num_rows(epoch):
            row -= self.dataset.num_rows(epoch)
            epoch += 1
        return epoch, row


class _RankBatches:
    """The keys of a rank's batches without end; workers run ahead of what the loader hands out."""

    def __init__(self, loader: PackedLoader):
        self.loader = loader

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        loader = self.loader
        epoch, row = loader.epoch, loader.row
        share = loader.batch_size // loader.world_size
        while True:
            keys = []
            at_epoch, at_row = epoch, row
            for _ in range(loader.batch_size):
                keys.append((at_epoch, at_row))
                at_row += 1
                if at_row == loader.dataset.num_rows(at_epoch):
                    at_epoch, at_row = at_epoch + 1, 0
            yield keys[loader.rank * share : (loader.rank + 1) * share]
            epoch, row = at_epoch, at_row
