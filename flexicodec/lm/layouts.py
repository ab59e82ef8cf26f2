"""The layouts there are, for one sequence of ids or for parallel rows, and those of published models.

tokens              code 7 for 2 frames, code 9 for 1, code 9 for 3; two codebooks
marked              7 d2  9  9 d3                   a duration of 1 is not written
paired              7 d2  9 d1  9 d3
frames              7 >   9  9 >  >                 > is CONTINUE: an id for each frame of the grid
fused               7*8+1  9*8  9*8+2
flat                7 d2 a0 a1  9 d1 a0 a1  9 d3 a0 a1
delayed             a row for codes, one for durations, one a codebook, each shifted by its delay
"""

from collections.abc import Sequence

from flexicodec.lm.codes import Field, Stream
from flexicodec.lm.layout import Layout
from flexicodec.lm.vocabulary import Vocabulary
from flexicodec.token_format import TokenFormat

SEQUENCES = {  # what a token consists of, in the layouts of one sequence
    "marked": ("code", "duration"),
    "paired": ("code", "duration"),
    "frames": ("code",),
    "fused": ("fused",),
    "flat": ("code", "duration", "acoustic"),
}


def make_layout(name: str, vocabulary: Vocabulary) -> Layout:
    """Make a layout of one sequence of the vocabulary's ids.

    Args:
        name: marked (the default choice), paired, frames, fused, or flat, which writes acoustic codes too.
        vocabulary: `fused` needs one with `fused=True`, the others one without.
    """
    if name not in SEQUENCES:
        raise ValueError(f"no layout {name!r}; there are {', '.join(SEQUENCES)}, and delayed_layout(...)")
    if name != "frames":
        _check_durations(name, vocabulary.format)
    if vocabulary.fused != (name == "fused"):
        raise ValueError(f"{name} needs Vocabulary(..., fused={name == 'fused'})")
    if name != "flat" and vocabulary.format.semantic_codebook_size is None:
        raise ValueError(f"{name} writes semantic codes, which this codec does not have; use flat or delayed_layout")
    fields = []
    for kind in SEQUENCES[name]:
        for region, ids in vocabulary.regions.items():
            if region.split()[0] == kind and len(ids):
                fields.append(Field(region, ids.start, len(ids)))
    stream = Stream(vocabulary.size, vocabulary.special("PAD"), vocabulary.special("START"), vocabulary.special("END"))
    return Layout(name, vocabulary, tuple(fields), (stream,))


def delayed_layout(
    vocabulary: Vocabulary,
    delays: Sequence[int] | None = None,
    fields: Sequence[Field] | None = None,
    streams: Sequence[Stream] | None = None,
) -> Layout:
    """Make a layout of parallel rows: codes, durations, then a row for each codebook; each with ids of its own.

    A row numbers its codes from 0 and has a hole behind the last; the first row also has START and END. `fields` and
    `streams` give other numbers, as presets do.

    Args:
        delays: Steps of each row. None: all 0 (parallel); MusicGen's are 0, 0, 1, 2, ..., Moshi's 0, 0, 1, 1, ...
    """
    form = vocabulary.format
    _check_durations("delayed", form)
    if fields is None:
        sizes = {}
        if form.semantic_codebook_size is not None:
            sizes["code"] = form.semantic_codebook_size
        if form.max_duration != 1:
            sizes["duration"] = form.max_duration or 1
        for codebook in range(vocabulary.num_codebooks):
            sizes[f"acoustic {codebook}"] = form.acoustic_codebook_size
        fields = [Field(name, 0, size) for name, size in sizes.items()]
    if streams is None:
        streams = [Stream(field.size + 1, field.size) for field in fields]
        size = fields[0].size
        streams[0] = Stream(size + 3, size, start=size + 1, end=size + 2)
    delays = (0,) * len(fields) if delays is None else tuple(delays)
    if len(delays) != len(fields) or min(delays) < 0:
        names = ", ".join(field.name for field in fields)
        raise ValueError(f"delays are {delays}, expected one for each row, 0 or more: {names}")
    return Layout("delayed", vocabulary, tuple(fields), tuple(streams), delays)


def _check_durations(name: str, format: TokenFormat) -> None:
    """Refuse codecs whose durations cannot be numbered."""
    if format.max_duration is None:
        raise ValueError(f"{name} needs an id for each duration, and max_duration of this codec is None; use frames")


# ------------------------------------------------------------------------------------------ published models


def _code_and_length(format: TokenFormat, code: Stream, first_code: int, length_classes: int) -> Layout:
    """Lay out codes, and a step later their durations: the class is the duration, 0 where there is none yet."""
    # codes       START  c1    c2    c3    END      a step embeds a code and the duration before it, and predicts
    # durations   0      0     d1    d2    d3       the next code and its own duration
    longest = format.max_duration or 0
    if not 1 <= longest < length_classes:
        raise ValueError(
            f"tokens last up to {format.max_duration} frames, this preset has classes 0 to {length_classes - 1}"
        )
    fields = (Field("code", first_code, format.semantic_codebook_size or 0), Field("duration", 1, longest))
    streams = (code, Stream(length_classes, hole=0))
    return delayed_layout(Vocabulary(0, format), (0, 1), fields, streams)


def flexislm_layout(format: TokenFormat, _: int) -> Layout:
    """Ids of a code are code + 3, behind start, end and tag; 32 classes of durations (FlexiSLM, arXiv 2606.31247)."""
    size = format.semantic_codebook_size or 0
    return _code_and_length(format, Stream(size + 3, hole=2, start=0, end=1), 3, 32)


def flexicodec_tts_layout(format: TokenFormat, _: int) -> Layout:
    """Codes from 0, the end behind them, then START; 11 classes of durations (FlexiCodec-TTS, arXiv 2510.00981).

    The released model has START in a table of its own, and so has the text before it.
    """
    size = format.semantic_codebook_size or 0
    return _code_and_length(format, Stream(size + 3, hole=size + 2, start=size + 1, end=size), 0, 11)


def moshi_layout(format: TokenFormat, num_codebooks: int) -> Layout:
    """Codes and durations side by side, codebooks a step later, as in Moshi."""
    front = (format.semantic_codebook_size is not None) + (format.max_duration != 1)
    return delayed_layout(Vocabulary(0, format, num_codebooks), (0,) * front + (1 if front else 0,) * num_codebooks)


def frames_layout(format: TokenFormat, _: int) -> Layout:
    """A step for every frame of the grid, for duplex models; the rate has an id."""
    return make_layout("frames", Vocabulary(0, format))
