"""Fields of a row of a list, whatever tool wrote it: one table of synonyms by field, and one of times and their units.

Where a row has several synonyms of a field, the first of the table that has a value counts. Times are stricter, because
a time that is lost is another clip: all times of a row must agree, and a key that looks like one and is in no table
is an error.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Row = Mapping[str, Any]

# In order of preference. NeMo, Icefall, FunASR, WeNet, GigaSpeech, WenetSpeech, Emilia, SpeechBrain, Coqui, DeepSpeech
# and Hugging Face lists; `source` is a file in FunASR, but the kind of recording in GigaSpeech.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "audio_filepath", "audio_file_path", "audio_path", "audio_file", "audio"),
        *("wav", "wav_path", "wav_file", "wav_filename", "filepath", "file_path", "file_name", "filename", "file"),
        "source",
    ),
    "id": ("id", "key", "utt", "utt_id", "uttid", "utterance_id", "sid", "segment_id", "uid", "__key__"),
    "text": (
        *("text_norm", "normalized_text", "text_normalized", "text", "txt", "transcript", "transcription", "sentence"),
        *("text_tn", "target", "tgt_text", "wrd", "words", "raw_text", "raw_transcription", "text_original"),
    ),
    "speaker": ("speaker", "speaker_id", "speaker_name", "speaker_label", "spk", "spk_id", "spkid", "client_id"),
    "language": ("language", "lang", "locale", "text_language", "source_lang"),
    "corpus": ("corpus", "dataset"),
    "channel": ("channel", "channel_id", "channel_idx", "channel_index", "channel_selector", "audio_channel"),
    "num_phones": ("num_phones", "n_phones_est"),
    "alignment": ("alignment", "alignment_path", "textgrid", "ctm_filepath"),
}
TIMES: dict[str, tuple[str, ...]] = {
    "start": ("start", "start_time", "begin", "begin_time", "offset", "segment_start"),
    "end": ("end", "end_time", "stop", "stop_time", "segment_end"),
    "duration": ("duration", "dur", "audio_duration"),
}
SECONDS = 1.0
MILLISECONDS = 1e-3
UNITS = {
    **dict.fromkeys(("", "_s", "_sec", "_secs", "_seconds"), SECONDS),
    **dict.fromkeys(("_ms", "_msec", "_milliseconds"), MILLISECONDS),
}
TIME_KEYS: dict[str, tuple[str, float]] = {
    name + suffix: (field, unit) for field, names in TIMES.items() for name in names for suffix, unit in UNITS.items()
}

# Words in keys that are in no table. A position in the file may not be missed; a length only if no other is there.
POSITIONS = {"start", "begin", "end", "stop", "offset", "onset", "time", "timestamp", "timestamps", "from", "to"}
POSITIONS |= {"tmin", "tmax", "xmin", "xmax", "t0", "t1", "interval", "span"}
LENGTHS = {"dur", "duration", "length", "seconds", "secs", "sec", "ms"}
COUNTS = {"len", "samples", "frames", "nframes"}  # in units that the list does not state (FunASR's are 10 ms frames)
PAIRS = {"segment", "trim", "range", "region", "bounds", "window", "clip", "cut", "crop", "slice", "times"}
OF_TEXT = {"text", "target", "prompt", "tgt", "txt"}
EPOCH = 1e8  # greater numbers are dates

AGREEMENT = 1e-3  # seconds by which two starts, or two ends, may differ
ROUNDING = 0.05  # seconds by which end - start may differ from the duration
NOBODY = {"n/a", "unknown", "none", "nan", "<unk>"}  # speakers that are not known ("N/A" is GigaSpeech's)
PUNCTUATION = {"<COMMA>": ",", "<PERIOD>": ".", "<QUESTIONMARK>": "?", "<EXCLAMATIONPOINT>": "!"}  # GigaSpeech
NOT_SPEECH = {"<SIL>", "<MUSIC>", "<NOISE>", "<OTHER>"}  # whole texts of GigaSpeech


def folded(row: Row) -> dict[str, Any]:
    """Write keys in lower case with underscores: "audioFilepath" is "audio_filepath", "Duration (ms)" "duration_ms"."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        result.setdefault(_folded_key(str(key)), value)
    return result


@lru_cache(maxsize=1024)
def _folded_key(key: str) -> str:
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key).lower()
    return re.sub(r"\W+", "_", re.sub(r"^\W+|\W+$", "", name))


def audio_name(row: Row) -> str:
    """Return the name of the audio file of a folded row."""
    value = _first(row, "path")
    if isinstance(value, Mapping):  # Hugging Face's `audio`
        if value.get("array") is not None or (value.get("bytes") is not None and not value.get("path")):
            raise ValueError("its audio is in the list itself; expected the name of a file")
        value = value.get("path")
    if not value:
        raise ValueError(f"no key names an audio file ({_shown(row)}); known are {', '.join(SYNONYMS['path'])}")
    if not isinstance(value, str):
        raise ValueError(f"its audio file is {value!r}; expected one name")
    if "://" in value or value.rstrip().endswith("|"):
        raise ValueError(f"its audio is {value!r}, which is no file; save it as one first")
    return value


def known_values(row: Row) -> dict[str, Any]:
    """Return the fields of `Utterance` that a folded row states, but for its file and times; others are left out."""
    sentence = row.get("sentence")
    if _is_prompt(row):
        row = {key: value for key, value in row.items() if key != "sentence"}
    else:
        sentence = None
    values: dict[str, Any] = {"sentence": sentence}
    for field in ("id", "text", "speaker", "language", "corpus", "channel", "num_phones", "alignment"):
        values[field] = _first(row, field)
    values["id"] = None if values["id"] is None else str(values["id"])
    values["text"] = _text(values["text"])
    values["speaker"] = _speaker(values["speaker"])
    values["language"] = language_code(values["language"])
    values["channel"] = _channel(values["channel"], row.get("channels"))
    values["num_phones"] = _count(values["num_phones"])
    values["speaker_guessed"] = True if row.get("speaker_guessed") else None
    return {name: value for name, value in values.items() if value is not None}


def clip_times(row: Row) -> tuple[float, float | None]:
    """Return start and duration in seconds of a folded row; None is up to the end of the file.

    Times that disagree or cannot be are a `ValueError`.
    """
    found: dict[str, tuple[str, float]] = {}
    for key, value in row.items():
        if key not in TIME_KEYS or value is None or value == "":
            continue
        field, unit = TIME_KEYS[key]
        seconds = _seconds(key, value) * unit
        other, before = found.setdefault(field, (key, seconds))
        if abs(before - seconds) > AGREEMENT:
            raise ValueError(f"{other} says {before:g} s and {key} says {seconds:g} s; keep the one that is right")
    start = found["start"][1] if "start" in found else 0.0
    duration = found["duration"][1] if "duration" in found else None
    if "duration" not in found and "end" not in found:
        duration = _length(row)
    if "end" in found:
        end = found["end"][1]
        if duration is not None and abs(end - start - duration) > ROUNDING:
            keys = [found[field][0] for field in ("start", "end", "duration") if field in found]
            raise ValueError(f"{', '.join(keys)} disagree: {start:g} s to {end:g} s are not {duration:g} s")
        if duration is None:
            duration = end - start
    if duration is not None and not duration > 0:
        raise ValueError(f"duration is {duration:g}; expected seconds above 0")
    if not start >= 0:
        raise ValueError(f"start is {start:g}; expected seconds of at least 0")
    return start, duration


def check_unknown_times(row: Row, start: float, duration: float | None) -> None:
    """Refuse keys that look like times of the clip and are not known; `start` and `duration` are `clip_times`."""
    for key, value in row.items():
        words = set(key.split("_"))
        if key in TIME_KEYS or words & OF_TEXT:
            continue
        if isinstance(value, Mapping):  # times of the clip, but for names that say nothing
            is_missed = any(name in TIME_KEYS or set(name.split("_")) & POSITIONS for name in folded(value))
        elif isinstance(value, list | tuple):  # lists of words with their times are none of the clip
            is_missed = bool(words & (POSITIONS | PAIRS)) and len(value) == 2 and all(map(_is_time, value))
        elif not _is_time(value):
            continue
        elif duration is None:  # the file's header has the length of all of it, but not of a part
            is_missed = bool(words & (POSITIONS | LENGTHS)) or (bool(words & COUNTS) and start > 0)
        else:
            is_missed = bool(words & POSITIONS)
        if is_missed:
            known = ", ".join(name for names in TIMES.values() for name in names)
            raise ValueError(f"{key} ({value!r}) looks like a time; rename it ({known}; seconds, or _ms), or remove it")


def language_code(value: Any) -> str | None:
    """Return a language as a code: "en" of "English", "EN", "<|en|>"; "en-us" of "en_us"; other text as it is."""
    if not isinstance(value, str) or not value.strip():  # a class label of Hugging Face, say
        return None
    text = value.strip().removeprefix("<|").removesuffix("|>")
    if re.fullmatch(r"[A-Za-z]{2,3}", text):
        return text.lower()
    if re.fullmatch(r"[A-Za-z]{2,3}[-_]\w+", text):
        primary, rest = re.split("[-_]", text, maxsplit=1)
        return f"{primary.lower()}-{rest.replace('_', '-')}"
    if text.isalpha():  # lhotse's recipes write names
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        return TO_LANGUAGE_CODE.get(text.lower(), text)
    return text


def _first(row: Row, field: str) -> Any:
    """Return the first synonym's value that is not empty; an empty string only under the field's own name."""
    for name in SYNONYMS[field]:
        value = row.get(name)
        if value is not None and value != "":
            return value
    return row.get(field)


def _is_prompt(row: Row) -> bool:
    """Tell our `sentence`, the name of a prompt ("SA1"), from the sentence that others mean by it."""
    has_text = any(row.get(name) is not None for name in SYNONYMS["text"] if name != "sentence")
    ours = {"path", "start", "duration"} <= row.keys() and " " not in str(row.get("sentence"))
    return has_text or ours


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        text = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):  # a spoken number that JSON took as one
        text = str(value)
    else:
        raise ValueError(f"text is {value!r}; expected a string")
    if text and "<" in text:
        if text.strip() in NOT_SPEECH:
            return None
        for tag, mark in PUNCTUATION.items():
            text = text.replace(f" {tag}", mark).replace(tag, mark)
    return text


def _speaker(value: Any) -> str | None:
    if value is None or str(value).strip().lower() in NOBODY:
        return None
    if not isinstance(value, (str, int)):
        raise ValueError(f"speaker is {value!r}; expected a name or number")
    return str(value)


def _channel(value: Any, channels: Any) -> int | None:
    """Return a channel, counted from 0; `channels` is a number of channels, or a list of those of the clip."""
    if value is None and isinstance(channels, list):
        value = channels
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value in ("A", "B"):  # of a telephone call
        return "AB".index(value)
    if isinstance(value, str) and value.isdecimal():  # of a table
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"channel is {value!r}; expected a whole number from 0")
    return value


def _count(value: Any) -> int | None:
    if value is None:
        return None
    number = float(value)
    if not number.is_integer() or number < 0:
        raise ValueError(f"num_phones is {value}; expected a whole number of at least 0")
    return int(number)


def _length(row: Row) -> float | None:
    """Return what says how long a clip is where no other key does: seconds, or samples with their rate."""
    if _is_time(row.get("length")):  # SpeechBrain's; others call other things so
        return _seconds("length", row["length"])
    samples = next((row[key] for key in ("num_samples", "n_samples") if row.get(key)), None)
    rate = next((row[key] for key in ("sample_rate", "sampling_rate") if row.get(key)), None)
    if samples is None or rate is None:
        return None
    return _seconds("num_samples", samples) / _seconds("sample_rate", rate)


def _seconds(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"its {key} is {value!r}; expected a number of seconds")
    return number


def _is_time(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\s*\d+([.,]\d*)?\s*", value) is not None
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < EPOCH


def _shown(row: Row) -> str:
    return f"its keys: {', '.join(list(row)[:8])}" if row else "it has no keys"
