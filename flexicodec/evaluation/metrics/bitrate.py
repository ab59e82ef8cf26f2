"""Bitrates of tokens: tokens per second, bits at fixed width, bytes of a file, and code lengths under an entropy coder.

The rate of a clip is its bits over its seconds (of its audio where the length is known); the rate of a corpus is the
sum over the sum, never a mean of rates. Kilobits are 1000 bits. Nominal bits are the fixed widths of all codes and
durations (15 + 3 + 12 K a token with the paper's sizes). Entropy-coded bits are code lengths -log2 q under count models
of other clips; an arithmetic coder comes within a few bits a clip of them. Neither counts a header, which a file has.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from flexicodec.statistics.entropy import (
    CountModel,
    Symbols,
    SymbolSequence,
    assign_folds,
    boundary_flags,
    fsq_digits,
    previous_symbols,
)
from flexicodec.tokens import Tokens

FOLDS = 5
TEST_FOLDS = 4  # within the clips of a model: a quarter of them decides how each stream is coded

# A stream of a clip (durations, semantic codes, one acoustic codebook) can be coded in several ways. A way is a list of
# symbol sequences that are coded one after another, each with the size of its alphabet.
Sequences: TypeAlias = list[tuple[SymbolSequence, int]]
Ways: TypeAlias = dict[str, Sequences]
FIXED_WIDTH = "fixed width"
RAW_FLAGS = "raw flags"
WITHOUT_MODEL = (FIXED_WIDTH, RAW_FLAGS)


def clip_rates(tokens: Tokens) -> list[dict[str, float]]:
    """Measure each clip: `frame_rate_hz`, `bitrate_kbps` (nominal), `file_bytes` and `file_kbps` (as a .flxc file).

    Nominal bits count durations as fields of fixed width; `bitrate_mask_kbps` and `bitrate_entropy_kbps` count them as
    a bit a frame, and as an adaptive code (`side_information`).
    """
    rates = []
    for index in range(len(tokens)):
        file_bytes = len(tokens[index].to_bytes())
        clip: dict[str, float] = {}
        clip["frame_rate_hz"] = tokens.frame_rates[index].item()
        clip["bitrate_kbps"] = tokens.bitrates_kbps[index].item()
        clip["bitrate_mask_kbps"] = tokens.bitrates_kbps("mask")[index].item()
        clip["bitrate_entropy_kbps"] = tokens.bitrates_kbps("entropy")[index].item()
        clip["file_bytes"] = float(file_bytes)
        clip["file_kbps"] = 8 * file_bytes / tokens.seconds[index].item() / 1000
        rates.append(clip)
    return rates


def cross_validated_bits(
    parts: Iterable[Tokens],
    levels: Sequence[int] | None = None,
    groups: Sequence[Hashable] | None = None,
    folds: int = FOLDS,
) -> list[dict[str, float]]:
    """Count the entropy-coded bits of each clip by stream, under a model of the clips in the other folds.

    A stream that these models make longer in total than a code without a model (fields of fixed width, a raw flag per
    frame) is counted by that; a coder would say which one in two bits for the whole corpus.

    Args:
        parts: Clips, singly or in batches; of one codec, at one setting.
        levels: Levels of the semantic FSQ codes, so they can be coded digit by digit (`FSQConfig.levels`).
        groups: Group of each clip (its speaker, for instance), never on both sides; None takes each clip by itself.
        folds: Parts to split into.

    Returns:
        For each clip its bits by stream: "durations", "semantic", "acoustic_1", ... as far as it has them.
    """
    # Each fold under a model of the other folds.
    clips = _single_clips(parts)
    fold_of_clip = assign_folds(len(clips), folds, groups)
    bits: list[dict[str, float]] = [{} for _ in clips]
    for fold in range(folds):
        model = TokenEntropyModel([clips[index] for index in np.flatnonzero(fold_of_clip != fold)], levels)
        for index in np.flatnonzero(fold_of_clip == fold):
            bits[index] = model.bits(clips[index])
    # Streams that are shorter without any model, over the whole corpus.
    for stream, costs in _bits_without_model(clips, levels).items():
        if sum(costs) < sum(clip_bits[stream] for clip_bits in bits):
            for clip_bits, cost in zip(bits, costs, strict=True):
                clip_bits[stream] = cost
    return bits


class TokenEntropyModel:
    """Count models for all streams of a codec's tokens, each coded in the way that makes it shortest.

    For every stream several ways are tried on a quarter of the clips, with models of the rest: fixed widths, symbols by
    themselves, given the symbol before, durations as flags per frame (raw ones too), FSQ codes as digits, acoustic
    codes given the codebook before. The shortest is then counted on all clips, so nothing is chosen on the clips that
    it is evaluated on. A single clip leaves the first way, fixed widths.

    `parts` and `levels` are those of `cross_validated_bits`; `ways` is the way chosen for each stream.
    """

    def __init__(self, parts: Iterable[Tokens], levels: Sequence[int] | None = None):
        clips = _single_clips(parts)
        self.levels = levels
        self.format = clips[0].format
        self.num_codebooks = clips[0].num_codebooks
        clip_streams = [_streams(clip, levels) for clip in clips]
        folds = min(TEST_FOLDS, len(clips))
        is_test = assign_folds(len(clips), folds) == 0 if folds > 1 else np.zeros(1, dtype=bool)
        self.ways: dict[str, str] = {}
        self._models: dict[str, list[CountModel]] = {}
        for stream, ways in clip_streams[0].items():
            # Choose the way on clips that its models have not counted, then count all clips.
            lengths = {}
            for way in ways:
                sequences = [streams[stream][way] for streams in clip_streams]
                models = _count_models([sequences[index] for index in np.flatnonzero(~is_test)])
                lengths[way] = sum(_bits(way, sequences[index], models) for index in np.flatnonzero(is_test))
            shortest = min(lengths, key=lambda way: lengths[way])
            self.ways[stream] = shortest
            self._models[stream] = _count_models([streams[stream][shortest] for streams in clip_streams])

    def bits(self, clip: Tokens) -> dict[str, float]:
        """Count the bits of one clip by stream; it has the format and codebooks of the model's clips."""
        _check_same_format([self, clip])
        streams = _streams(clip, self.levels)
        return {name: _bits(way, streams[name][way], self._models[name]) for name, way in self.ways.items()}


# ------------------------------------------------------------------------------------------------------------ streams


def _streams(clip: Tokens, levels: Sequence[int] | None) -> dict[str, Ways]:
    """List the streams of a clip, each with the ways to code it."""
    format = clip.format
    streams: dict[str, Ways] = {}
    if format.max_duration != 1:
        streams["durations"] = _duration_ways(clip.durations[0].cpu().numpy(), format.max_duration)
    if clip.semantic is not None:
        assert format.semantic_codebook_size is not None
        codes = clip.semantic[0].cpu().numpy()
        streams["semantic"] = _code_ways(codes, format.semantic_codebook_size) | _digit_ways(codes, levels)
    below: Symbols | None = None
    for index, codes in enumerate(clip.acoustic[0].cpu().numpy()):
        streams[f"acoustic_{index + 1}"] = _code_ways(codes, format.acoustic_codebook_size, below)
        below = codes
    return streams


def _code_ways(codes: Symbols, size: int, below: Symbols | None = None) -> Ways:
    """List the ways to code a stream of one symbol per token."""
    ways: Ways = {
        FIXED_WIDTH: [(SymbolSequence(codes), size)],
        "alone": [(SymbolSequence(codes), size)],
        "after the last": [(SymbolSequence(codes, (previous_symbols(codes),)), size)],
    }
    if below is not None:
        ways["given the codebook below"] = [(SymbolSequence(codes, (below,)), size)]
    return ways


def _duration_ways(durations: Symbols, max_duration: int | None) -> Ways:
    """List the ways to code durations; without a maximum there is no alphabet, and flags are the only way."""
    flags = boundary_flags(durations)
    ways: Ways = {
        RAW_FLAGS: [(SymbolSequence(flags.symbols), 2)],
        "flags": [(SymbolSequence(flags.symbols), 2)],
        "flags by age": [(flags, 2)],
    }
    if max_duration is None:
        return ways
    return _code_ways(durations - 1, max_duration) | ways


def _digit_ways(codes: Symbols, levels: Sequence[int] | None) -> Ways:
    """List the ways to code FSQ codes digit by digit, each given those before it in the token."""
    if levels is None:
        return {}
    digits = fsq_digits(codes, levels).T
    chain: Sequences = []
    chain_after_last: Sequences = []
    for index, size in enumerate(levels):
        before = tuple(digits[:index][::-1])  # nearest first: models shorten contexts from their end
        chain.append((SymbolSequence(digits[index], before), size))
        chain_after_last.append((SymbolSequence(digits[index], (*before, previous_symbols(digits[index]))), size))
    return {"digits": chain, "digits after the last": chain_after_last}


def _count_models(clips: Sequence[Sequences]) -> list[CountModel]:
    """Make a count model for each sequence of a way, of many clips."""
    models = []
    for parts in zip(*clips, strict=True):
        _, size = parts[0]
        models.append(CountModel([source for source, _ in parts], size))
    return models


def _bits(way: str, sequences: Sequences, models: Sequence[CountModel]) -> float:
    """Count the bits of one stream of a clip."""
    if way in WITHOUT_MODEL:
        return float(sum(len(source.symbols) * (size - 1).bit_length() for source, size in sequences))
    return float(sum(model.bits(source).sum() for (source, _), model in zip(sequences, models, strict=True)))


def _bits_without_model(clips: Sequence[Tokens], levels: Sequence[int] | None) -> dict[str, list[float]]:
    """Count the bits of each clip by stream in the shortest way that needs no model."""
    clip_streams = [_streams(clip, levels) for clip in clips]
    shortest: dict[str, list[float]] = {}
    for stream, ways in clip_streams[0].items():
        costs = []
        for way in WITHOUT_MODEL:
            if way in ways:
                costs.append([_bits(way, streams[stream][way], ()) for streams in clip_streams])
        shortest[stream] = min(costs, key=sum)
    return shortest


def _single_clips(parts: Iterable[Tokens]) -> list[Tokens]:
    """Split batches into clips, and check that there are some and that they have one format."""
    batches = [parts] if isinstance(parts, Tokens) else parts
    clips = [batch[index] for batch in batches for index in range(len(batch))]
    if not clips:
        raise ValueError("there are no clips to measure; expected Tokens, one or more")
    _check_same_format(clips)
    return clips


def _check_same_format(parts: Sequence["Tokens | TokenEntropyModel"]) -> None:
    first = parts[0]
    for other in parts[1:]:
        if other.format != first.format:
            raise ValueError(f"tokens of {other.format} beside {first.format}; a rate belongs to one codec")
        if other.num_codebooks != first.num_codebooks:
            counts = f"{other.num_codebooks} acoustic codebooks beside {first.num_codebooks}"
            raise ValueError(f"tokens of {counts}; keep(acoustic=) makes them equal")
