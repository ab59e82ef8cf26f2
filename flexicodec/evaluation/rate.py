"""What tokens cost: tokens per second, bits per second by their widths, as a file, and as an entropy coder has them.

Conventions: a clip's rate is what it costs over its seconds (of its audio where the length is known); a corpus' rate is
the sum over the sum, never a mean of rates. Kilobits are 1000 bits. Nominal bits are the fixed widths of all codes and
durations (15 + 3 + 12 K a token with the paper's sizes). Entropy-coded bits are code lengths -log2 q under count models
of other clips; an arithmetic coder comes within a few bits a clip of them. Neither counts a header, which a file has.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from flexicodec.statistics.entropy import CountModel, Source, Symbols, boundary_flags, fsq_digits, previous, split
from flexicodec.tokens import Tokens

HIGHER_IS_BETTER = dict.fromkeys(("frame_rate_hz", "bitrate_kbps", "file_bytes", "file_kbps", "entropy_kbps"), False)
FOLDS = 5

Pieces: TypeAlias = list[tuple[Source, int]]  # what is coded one after another, each with the size of its alphabet
PLAIN, RAW_FLAGS = "fixed width", "raw flags"
TRIVIAL = (PLAIN, RAW_FLAGS)  # ways that need no model


def measured(tokens: Tokens) -> list[dict[str, float]]:
    """Measure each clip: `frame_rate_hz`, `bitrate_kbps` (nominal), `file_bytes` and `file_kbps` (as a .flxc file)."""
    sizes = [len(tokens[i].to_bytes()) for i in range(len(tokens))]
    columns = zip(
        sizes, tokens.seconds.tolist(), tokens.frame_rates.tolist(), tokens.bitrates_kbps.tolist(), strict=True
    )
    return [
        {
            "frame_rate_hz": rate,
            "bitrate_kbps": kbps,
            "file_bytes": float(size),
            "file_kbps": 8 * size / seconds / 1000,
        }
        for size, seconds, rate, kbps in columns
    ]


def evaluate(
    parts: Iterable[Tokens],
    levels: Sequence[int] | None = None,
    groups: Sequence[Hashable] | None = None,
    folds: int = FOLDS,
) -> dict[str, float]:
    """Measure a corpus.

    Args:
        parts: Clips, singly or in batches; of one codec, at one setting.
        levels: See `TokenModel`.
        groups: See `held_out_bits`.
        folds: See `held_out_bits`.

    Returns:
        `frame_rate_hz`, `bitrate_kbps`, `file_kbps` and `entropy_kbps`; the last is NaN where there are fewer clips (or
        groups) than folds.

    Raises:
        ValueError: No clips, or clips that do not go together.
    """
    clips = _singles(parts)
    seconds = sum(float(clip.seconds[0]) for clip in clips)
    rows = [(measured(clip)[0], float(clip.seconds[0])) for clip in clips]
    found = {
        name: sum(row[name] * s for row, s in rows) / seconds for name in ("frame_rate_hz", "bitrate_kbps", "file_kbps")
    }
    units = len(clips if groups is None else set(groups))
    bits = held_out_bits(clips, levels, groups, folds) if units >= folds else []
    found["entropy_kbps"] = sum(sum(each.values()) for each in bits) / seconds / 1000 if bits else math.nan
    return found


def held_out_bits(
    parts: Iterable[Tokens],
    levels: Sequence[int] | None = None,
    groups: Sequence[Hashable] | None = None,
    folds: int = FOLDS,
) -> list[dict[str, float]]:
    """Count each clip's entropy-coded bits, stream by stream, under a model of clips in the other folds.

    A stream that costs more in all by these models than by a trivial code (fields of fixed width, a raw flag per frame)
    is counted by that: which one, a coder would say in two bits for the whole corpus.

    Args:
        parts: Clips, singly or in batches; of one codec, at one setting.
        levels: See `TokenModel`.
        groups: Of each clip, its speaker, say: a group is never on both sides. None takes every clip for itself.
        folds: Parts to split into.

    Returns:
        For each clip its bits by stream: "durations", "semantic", "acoustic_1", ... as far as there are such.

    Raises:
        ValueError: Fewer clips (or groups) than folds, or clips that do not go together.
    """
    clips = _singles(parts)
    fold_of = split(len(clips), folds, groups)
    bits: list[dict[str, float]] = [{} for _ in clips]
    for fold in range(folds):
        model = TokenModel([clip for clip, its in zip(clips, fold_of, strict=True) if its != fold], levels)
        for index in np.flatnonzero(fold_of == fold).tolist():
            bits[index] = model.bits(clips[index])[0]
    for stream, plain in _trivial_bits(clips, levels).items():
        if sum(plain) < sum(each[stream] for each in bits):
            bits = [{**each, stream: cost} for each, cost in zip(bits, plain, strict=True)]
    return bits


def _trivial_bits(clips: Sequence[Tokens], levels: Sequence[int] | None) -> dict[str, list[float]]:
    """Count each clip's bits by stream in the cheapest way that needs no model."""
    laid_out = [_streams(clip, levels) for clip in clips]
    found: dict[str, list[float]] = {}
    for stream, ways in laid_out[0].items():
        costs = [[_bits(way, each[stream][way], ()) for each in laid_out] for way in TRIVIAL if way in ways]
        found[stream] = min(costs, key=sum)
    return found


class TokenModel:
    """Count models for all streams of a codec's tokens, each in the way that codes it shortest.

    For every stream several ways are tried on a quarter of the clips, with models of the rest: fixed widths, symbols by
    themselves, given the symbol before, durations as flags per frame (raw ones too), FSQ codes as digits, acoustic
    codes given the codebook before. The shortest is then counted on all of them, so that nothing is chosen on what it
    is tested on.
    A single clip leaves the first, fixed widths.

    Args:
        parts: Clips to count, singly or in batches; of one codec, at one setting.
        levels: Of the semantic FSQ codes, which lets them be coded as digits (`FSQConfig.levels`).

    Attributes:
        ways: The way chosen for each stream.

    Raises:
        ValueError: No clips, or clips that differ in format or codebooks.
    """

    def __init__(self, parts: Iterable[Tokens], levels: Sequence[int] | None = None):
        clips = _singles(parts)
        self.levels = levels
        self.format, self.num_codebooks = clips[0].format, clips[0].num_codebooks
        laid_out = [_streams(clip, levels) for clip in clips]
        folds = min(4, len(clips))
        tested = split(len(clips), folds) == 0 if folds > 1 else np.zeros(1, dtype=bool)
        self.ways: dict[str, str] = {}
        self._models: dict[str, list[CountModel]] = {}
        for stream, ways in laid_out[0].items():
            lengths = {}
            for way in ways:
                pieces = [each[stream][way] for each in laid_out]
                models = _count([each for each, test in zip(pieces, tested, strict=True) if not test])
                lengths[way] = sum(_bits(way, each, models) for each, test in zip(pieces, tested, strict=True) if test)
            best = min(lengths, key=lambda way: lengths[way])
            self.ways[stream] = best
            self._models[stream] = _count([each[stream][best] for each in laid_out])

    def bits(self, tokens: Tokens) -> list[dict[str, float]]:
        """Count the bits of each clip by stream.

        Raises:
            ValueError: Tokens of another format, or with other codebooks, than the model was made of.
        """
        _check_alike([self, tokens])
        found = []
        for index in range(len(tokens)):
            streams = _streams(tokens[index], self.levels)
            found.append({name: _bits(way, streams[name][way], self._models[name]) for name, way in self.ways.items()})
        return found


# --------------------------------------------------------------------------------------------------------------- parts


def _streams(clip: Tokens, levels: Sequence[int] | None) -> dict[str, dict[str, Pieces]]:
    """Lay out what is to be coded of a clip: for each stream the ways to code it."""
    format = clip.format
    streams: dict[str, dict[str, Pieces]] = {}
    if format.max_duration != 1:
        streams["durations"] = _duration_ways(clip.durations[0].cpu().numpy(), format.max_duration)
    if clip.semantic is not None:
        assert format.semantic_codebook_size is not None
        codes = clip.semantic[0].cpu().numpy()
        streams["semantic"] = _ways(codes, format.semantic_codebook_size) | _digit_ways(codes, levels)
    below: Symbols | None = None
    for index, codes in enumerate(clip.acoustic[0].cpu().numpy()):
        streams[f"acoustic_{index + 1}"] = _ways(codes, format.acoustic_codebook_size, below)
        below = codes
    return streams


def _ways(codes: Symbols, size: int, below: Symbols | None = None) -> dict[str, Pieces]:
    """List the ways to code symbols of which one stands in each token."""
    ways: dict[str, Pieces] = {
        PLAIN: [(Source(codes), size)],
        "alone": [(Source(codes), size)],
        "after the last": [(Source(codes, (previous(codes),)), size)],
    }
    if below is not None:
        ways["given the codebook below"] = [(Source(codes, (below,)), size)]
    return ways


def _duration_ways(durations: Symbols, cap: int | None) -> dict[str, Pieces]:
    """List the ways to code durations; without a cap there is no alphabet, and flags are the only way."""
    flags = boundary_flags(durations)
    ways: dict[str, Pieces] = {way: [(Source(flags.symbols), 2)] for way in (RAW_FLAGS, "flags")}
    ways["flags by age"] = [(flags, 2)]
    return ways if cap is None else _ways(durations - 1, cap) | ways


def _digit_ways(codes: Symbols, levels: Sequence[int] | None) -> dict[str, Pieces]:
    """List the ways to code FSQ codes digit by digit, each given those before it in the token."""
    if levels is None:
        return {}
    digits = fsq_digits(codes, levels).T
    chain, after = [], []
    for j, size in enumerate(levels):
        before = tuple(digits[j - 1 :: -1]) if j else ()
        chain.append((Source(digits[j], before), size))
        after.append((Source(digits[j], (*before, previous(digits[j]))), size))
    return {"digits": chain, "digits after the last": after}


def _count(pieces: Sequence[Pieces]) -> list[CountModel]:
    """Make a model for each piece of many clips."""
    return [CountModel([source for source, _ in column], column[0][1]) for column in zip(*pieces, strict=True)]


def _bits(way: str, pieces: Pieces, models: Sequence[CountModel]) -> float:
    """Count the bits of a clip's stream."""
    if way in TRIVIAL:
        return float(sum(len(source.symbols) * (size - 1).bit_length() for source, size in pieces))
    return float(sum(model.bits(source).sum() for (source, _), model in zip(pieces, models, strict=True)))


def _singles(parts: Iterable[Tokens]) -> list[Tokens]:
    """Take batches apart into clips.

    Raises:
        ValueError: There are none, or they differ in format or codebooks.
    """
    clips = [part[i] for part in ([parts] if isinstance(parts, Tokens) else parts) for i in range(len(part))]
    if not clips:
        raise ValueError("there are no clips to measure; expected Tokens, one or more")
    _check_alike(clips)
    return clips


def _check_alike(parts: Sequence["Tokens | TokenModel"]) -> None:
    """Check that format and codebooks are the same.

    Raises:
        ValueError: Names what differs.
    """
    first = parts[0]
    for other in parts[1:]:
        if other.format != first.format:
            raise ValueError(f"tokens of {other.format} beside {first.format}; a rate belongs to one codec")
        if other.num_codebooks != first.num_codebooks:
            raise ValueError(
                f"tokens of {other.num_codebooks} acoustic codebooks beside {first.num_codebooks}; keep(acoustic=) "
                "makes them equal"
            )
