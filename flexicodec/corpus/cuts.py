"""Lhotse cuts as a source of utterances.

Lhotse (https://github.com/lhotse-speech/lhotse) prepares most public corpora; a cut says which stretch of which
recording is meant. Only where the audio lies is taken from it: reading, resampling and shuffling are this package's
own, so that they are the same for every source. Lhotse 1.33 needs no torchaudio.
"""

import importlib
from pathlib import Path
from typing import Any

from flexicodec.corpus.manifest import Utterance, locate


def read_cuts(path: str | Path) -> list[Utterance]:
    """Read cuts one by one from a JSONL file (`.gz` too); recordings named relatively are looked for beside it first.

    Raises:
        ImportError: lhotse is not installed.
        ValueError: A cut that is more than a stretch of one single-channel recording in a file: mixed, padded or
            multi-channel cuts, recordings changed on the fly, features without audio. The message names it.
    """
    try:
        lhotse = importlib.import_module("lhotse")
    except ImportError as error:
        raise ImportError(f"{path} holds lhotse cuts, and lhotse is not installed: pip install lhotse") from error
    path = Path(path)
    utterances = [_utterance(cut, path) for cut in lhotse.load_manifest_lazy(path)]
    if not utterances:
        raise ValueError(f"{path} lists no cuts")
    return utterances


def _utterance(cut: Any, manifest: Path) -> Utterance:
    if type(cut).__name__ != "MonoCut":
        raise _refused(cut, manifest, f"is a {type(cut).__name__}; save mixed and padded cuts as audio first")
    recording = cut.recording
    if recording is None:
        raise _refused(cut, manifest, "has features but no recording")
    if recording.transforms:
        raise _refused(cut, manifest, "changes its recording on the fly (speed, volume, ...); save it as audio first")
    if len(recording.sources) != 1 or len(recording.sources[0].channels) != 1:
        raise _refused(cut, manifest, f"is one channel of {recording.num_channels}; save it as audio first")
    (source,) = recording.sources
    if source.type != "file":
        raise _refused(cut, manifest, f"has its audio in a {source.type!r}; expected a file")
    texts = [s.text for s in cut.supervisions if s.text]
    speakers = {s.speaker for s in cut.supervisions}
    return Utterance(
        path=locate(source.source, manifest.parent),
        duration=float(cut.duration),
        start=float(cut.start),
        text=" ".join(texts) or None,
        speaker=speakers.pop() if len(speakers) == 1 else None,
    )


def _refused(cut: Any, manifest: Path, reason: str) -> ValueError:
    return ValueError(
        f"{manifest}: cut {cut.id!r} {reason} (only stretches of single-channel recordings in files can be read)"
    )
