"""Lhotse cuts (https://github.com/lhotse-speech/lhotse) as utterances.

Only files, channels, times, texts, speakers and languages are taken from them, so that reading and resampling are the
same for every source. Tokens can be attached to a cut, as arrays beside its recording.
"""

import importlib
import logging
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from flexicodec.corpus.lists.fields import language_code
from flexicodec.corpus.manifest import Utterance, resolve_path
from flexicodec.io_utils import needed_for
from flexicodec.token_columns import CODES
from flexicodec.tokens import Tokens

SAME_SECONDS = 1e-3  # of a cut and its tokens
OUTSIDE = 0.1  # seconds of a supervision beyond its cut, from which on its text is not the cut's

_log = logging.getLogger(__name__)


def load_cuts(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield lhotse's cuts of a JSONL file (`.gz` too), each with its file, line and id."""
    with needed_for(f"{path}, of lhotse cuts,", "lhotse", "'flexicodec-lab[lhotse]'"):
        lhotse = importlib.import_module("lhotse")  # 1.33 needs no torchaudio
    cuts = iter(lhotse.serialization.load_manifest_lazy_or_eager(path))
    for number in count(1):
        try:
            cut = next(cuts, None)
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise ValueError(f"{path}:{number}: lhotse cannot read this cut ({error!r})") from error
        if cut is None:
            return
        yield f"{path}:{number}: cut {cut.id!r}", cut


def cut_utterances(path: Path) -> list[Utterance]:
    """Read cuts; relative paths of recordings start at their folder, else the current one.

    A cut must be a part of one channel of a recording in a file; others are a `ValueError`.
    """
    utterances = []
    without_text = 0
    for where, cut in load_cuts(path):
        try:
            source, channel = cut_source(cut)
            if source.type != "file":
                raise ValueError(f"has its audio in a {source.type!r}; expected a file")
        except ValueError as error:  # the first bad cut ends the reading: a corpus is complete or refused
            raise ValueError(f"{where} {error}") from error
        fields = cut_fields(cut)
        file = resolve_path(source.source, path.parent)
        without_text += fields["text"] is None and any(map(_text, cut.supervisions))
        utterances.append(Utterance(file, float(cut.duration), float(cut.start), channel=channel, **fields))
    if without_text:
        _log.warning(
            "%s: %d of %d cuts have no text here: theirs goes beyond the cut, or is another channel's",
            *(path, without_text, len(utterances)),
        )
    return utterances


def cut_source(cut: Any) -> tuple[Any, int | None]:
    """Return the source that has a cut's channel, and the channel's index in it, None if it has no other.

    A cut that is not a part of one recorded channel is a `ValueError`.
    """
    kind = type(cut).__name__
    channels = [cut.channel] if kind == "MonoCut" else getattr(cut, "channel", [])
    if kind == "MultiCut" and len(channels) > 1:
        raise ValueError(
            f"has {len(channels)} channels; make a cut of each with `cut.to_mono()`, or of their mean with "
            "`cut.to_mono(mono_downmix=True)` and `save_audio`"
        )
    if kind not in ("MonoCut", "MultiCut"):
        raise ValueError(f"is a {kind}; save mixed and padded cuts as audio first (`cut.save_audio`)")
    recording = cut.recording
    if recording is None:
        raise ValueError("has features but no recording")
    if recording.transforms:
        raise ValueError("changes its recording on the fly (speed, volume, ...); save it as audio first")
    for source in recording.sources:
        if channels[0] in source.channels:
            return source, None if len(source.channels) == 1 else list(source.channels).index(channels[0])
    raise ValueError(f"is channel {channels[0]} of a recording that has {recording.channel_ids}")


def cut_fields(cut: Any) -> dict[str, Any]:
    """Return id, text, speaker and language of a cut; speaker and language only if there is no other in it.

    Of a cut that ends within a supervision, the text is not known.
    """
    channel = cut.channel if isinstance(cut.channel, int) else cut.channel[0]
    supervisions = []
    for supervision in cut.supervisions:
        channels = supervision.channel if isinstance(supervision.channel, list) else [supervision.channel]
        if channel in channels:
            supervisions.append(supervision)
    texts = [text for text in map(_text, supervisions) if text]
    whole = all(-OUTSIDE <= each.start and each.end <= cut.duration + OUTSIDE for each in supervisions)
    return {
        "id": cut.id,
        "text": (" ".join(texts) or None) if whole else None,
        "speaker": _only(each.speaker for each in supervisions),
        "language": language_code(_only(each.language for each in supervisions)),
    }


def attach_tokens(cut: Any, tokens: Tokens, writer: Any = None) -> Any:
    """Return a cut with arrays `semantic`, `acoustic` [K, N] and `durations`, and what else `attached_tokens` needs.

    They are plain arrays: lhotse cuts only arrays of a constant frame rate in time, and tokens have none.

    Args:
        cut: A MonoCut.
        tokens: One clip, of the whole cut.
        writer: lhotse's writer of their files, such as `NumpyHdf5Writer`; None keeps them in memory, in a cut that
            cannot be written as JSON.

    Raises:
        ValueError: Several clips, or one of another length than the cut.
    """
    if len(tokens) != 1:
        raise ValueError(f"{len(tokens)} clips for cut {cut.id!r}; attach one to each cut: tokens[i]")
    _check_seconds(cut, tokens)
    columns = {name: values[0] for name, values in tokens.to_dict().items()}
    notes = {name: columns[name] for name in ("audio_lengths", "format", "info")}
    cut = cut.with_id(cut.id)  # a copy
    cut.custom = {**(cut.custom or {}), "tokens": notes}
    for name in CODES:
        if not columns[name]:  # a stream that these tokens do not have
            continue
        codes = np.array(columns[name], np.int32)
        if writer is None:
            cut = cut.attach_tensor(name, codes)
        else:
            setattr(cut, name, writer.store_array(f"{cut.id}-{name}", codes))
    return cut


def attached_tokens(cut: Any) -> Tokens:
    """Return the tokens of a cut that `attach_tokens` returned, before or after it was written and read.

    Raises:
        ValueError: It has none, or was cut, padded or made faster since: its tokens are those of the whole.
    """
    custom = getattr(cut, "custom", None) or {}
    if "tokens" not in custom:
        raise ValueError(f"{type(cut).__name__} {cut.id!r} has no tokens of its own; attach_tokens attaches them")
    row = dict(custom["tokens"])
    for name in CODES:
        if name in custom:
            row[name] = cut.load_custom(name)
    tokens = Tokens.from_dict(row)
    _check_seconds(cut, tokens)
    return tokens


def _check_seconds(cut: Any, tokens: Tokens) -> None:
    seconds = float(tokens.seconds[0])
    if abs(seconds - cut.duration) > SAME_SECONDS:
        raise ValueError(
            f"cut {cut.id!r} lasts {cut.duration:g} s and its tokens {seconds:g} s; were they made of another cut, or "
            "this one truncated, padded or made faster? (encode it again)"
        )


def _text(supervision: Any) -> str | None:
    """Return the text of a supervision; Libriheavy has several, the first with capitals and punctuation."""
    texts = (supervision.custom or {}).get("texts") or [None]
    return supervision.text or texts[0]


def _only(values: Iterable[Any]) -> Any:
    """Return the value that all have."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
