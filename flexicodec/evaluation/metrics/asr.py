"""Word and character error rates of decoded speech: recognisers, text normalisers and error counts.

Transcribers take float clips [S] at their own sample rate, full scale at 1, and return texts as the recogniser writes
them. Decoding is greedy, without a language model, so a clip has the same text in any batch.

Texts are normalised before they are compared; the normaliser's name belongs beside every rate. In scripts without
spaces every character is a word, and spaces are not counted as characters (`flexicodec.asr.text`). The rate of a corpus
is all errors over the length of all references, as jiwer computes it for lists of texts, so insertions can lift it
above 1. Words recognised where the reference is empty are insertions: they add to the errors and not to the length.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from flexicodec.asr import Recognizer
from flexicodec.asr.moonshine import Moonshine
from flexicodec.asr.text import is_spaceless, normalise, primary_language, split_words
from flexicodec.audio import collate
from flexicodec.evaluation.metrics import loading
from flexicodec.evaluation.metrics.faster_whisper import FasterWhisperTranscriber
from flexicodec.evaluation.metrics.loading import AudioModel, TorchModel, check_clips
from flexicodec.evaluation.metrics.sensevoice import SenseVoiceTranscriber
from flexicodec.io_utils import needed_for

Normaliser = Callable[[str], str]
Unit: TypeAlias = Literal["words", "characters"]
KINDS = ("ctc", "whisper", "hubert", "sensevoice", "faster-whisper")
NORMALISERS = ("basic", "whisper-english", "english")
MOONSHINE = "moonshine"
SHIPPED = "recognizer-mini"
# Titles as LibriSpeech's transcripts spell them. "st" is left alone: it is a saint or a street.
SPOKEN_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor"}
# Vowel points of Arabic and Hebrew, which most texts and recognisers leave out.
VOWEL_POINTS = re.compile("[\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u0652\u0670\u06d6-\u06ed\u08d3-\u08ff]")
QUOTES = re.compile(r"(?<!\S)'+|'+(?!\S)")  # single quotation marks, which are written as apostrophes

# -------------------------------------------------------------------------------------------------------- recognisers


def open_transcriber(
    spec: str = "ctc:recognizer-mini", device: str | torch.device | None = None, *, language: str | None = "en"
) -> "Transcriber":
    """Open a recogniser; its `transcribe` takes clips as one batch, so the caller bounds the memory.

    Args:
        spec: "moonshine", Moonshine Tiny (English only, by the extra `instruments`); "recognizer-mini" (ships with the
            package, small and weak; also "ctc:recognizer-mini") or "ctc:FOLDER", a recogniser of
            `flexicodec train-asr`; "whisper:SOURCE" (openai/whisper-large-v3); "hubert:SOURCE"
            (facebook/hubert-large-ls960-ft, or any CTC model of transformers on raw audio); "sensevoice:FOLDER"
            (SenseVoiceSmall, by the extra `funasr`); "faster-whisper:FOLDER" (a Whisper in CTranslate2's format, by
            the package faster-whisper). Sources are folders or hub ids.
        device: Where it runs; None means the CPU.
        language: ISO 639 code of the speech, for multilingual recognisers (Whisper, SenseVoice); None: they detect it.
    """
    torch_device = torch.device(device or "cpu")
    language = primary_language(language)
    if spec == MOONSHINE:
        return MoonshineTranscriber(spec, torch_device, language)
    if spec == SHIPPED:
        return CTCTranscriber(spec, SHIPPED, torch_device)
    kind, source = loading.parse_spec(spec, KINDS, "transcriber", names=(MOONSHINE, SHIPPED))
    if kind == "ctc":
        return CTCTranscriber(spec, source, torch_device)
    if kind == "hubert":
        return HubertTranscriber(spec, source, torch_device)
    if kind == "whisper":
        return WhisperTranscriber(spec, source, torch_device, language)
    if kind == "faster-whisper":
        return FasterWhisperTranscriber(spec, source, torch_device, language)
    return SenseVoiceTranscriber(spec, source, torch_device, language or "auto")


class CTCTranscriber(TorchModel):
    """A recogniser of this package (`flexicodec.asr`)."""

    def __init__(self, name: str, source: str, device: torch.device):
        self.name = name
        self.module: Recognizer = Recognizer.load(source, device)
        self.sample_rate = self.module.sample_rate

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Transcribe a padded batch of clips."""
        waves = check_clips(clips)
        if not waves:
            return []
        return self.module.transcribe(*collate([torch.from_numpy(wave) for wave in waves]))


class MoonshineTranscriber(TorchModel):
    """Moonshine Tiny, English: cased and punctuated texts, so compare them with the normaliser "english"."""

    languages = ("en",)
    sample_rate = Moonshine.sample_rate

    def __init__(self, name: str, device: torch.device, language: str | None = "en"):
        if language not in (None, *self.languages):
            raise ValueError(
                f"moonshine transcribes English only, and the language is {language!r}; use whisper:SOURCE, "
                "or leave error rates out"
            )
        self.name = name
        self.module: Moonshine = Moonshine.load(device)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Transcribe a padded batch of clips."""
        return self.module.transcribe(check_clips(clips))


class HubertTranscriber(AudioModel):
    """A CTC model of transformers on raw audio; clips shorter than its first frame (25 ms) give an empty text."""

    def __init__(self, name: str, source: str, device: torch.device):
        from transformers import AutoTokenizer

        what = "a CTC recogniser of transformers"
        super().__init__(name, what, source, "AutoModelForCTC", device)
        with loading.loading_errors(what, source):
            self.tokenizer = AutoTokenizer.from_pretrained(source)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Take the best path of each clip; the tokenizer collapses repeats and drops blanks."""
        waves = check_clips(clips)
        texts = [""] * len(waves)
        for indices, samples, mask in self.batches(waves):
            # Best path, without the frames of padding.
            with torch.no_grad():
                path = self.module(samples, attention_mask=mask).logits.argmax(dim=-1)
            for row, index in enumerate(indices):
                frames = path[row, : self.num_frames(len(waves[index]))]
                texts[index] = self.tokenizer.decode(frames.tolist(), skip_special_tokens=True).strip()
        return texts


class WhisperTranscriber(TorchModel):
    """Whisper of transformers, greedy; clips longer than its window of 30 s go one by one, window after window."""

    def __init__(self, name: str, source: str, device: torch.device, language: str | None = "en"):
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self.name = name
        with loading.loading_errors("Whisper", source):
            self.processor: Any = WhisperProcessor.from_pretrained(source)
            self.module: Any = loading.load_exactly(WhisperForConditionalGeneration, source).to(device).eval()
        self.sample_rate = int(self.processor.feature_extractor.sampling_rate)
        self.options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if getattr(self.module.generation_config, "is_multilingual", False):
            self.options |= {"language": language, "task": "transcribe"}

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Transcribe clips that fit the window as one batch, longer ones alone."""
        waves = check_clips(clips)
        window = self.processor.feature_extractor.n_samples
        # Clips that fit the window are one batch; each longer one is a batch of its own.
        short = [index for index, wave in enumerate(waves) if len(wave) <= window]
        batches = [short] if short else []
        batches += [[index] for index, wave in enumerate(waves) if len(wave) > window]
        texts = [""] * len(waves)
        for indices in batches:
            batch = [waves[index] for index in indices]
            for index, text in zip(indices, self._generate(batch, long_form=indices is not short), strict=True):
                texts[index] = text
        return texts

    def _generate(self, waves: Sequence[np.ndarray], long_form: bool) -> list[str]:
        """Transcribe clips that all fit into the window, or a single one that does not."""
        # Long-form generation needs the features unpadded and predicts timestamps to move its window.
        lengths = {"truncation": False, "padding": "longest"} if long_form else {}
        inputs = self.processor.feature_extractor(
            waves, sampling_rate=self.sample_rate, return_attention_mask=True, return_tensors="pt", **lengths
        ).to(self.module.device)
        with torch.no_grad():
            tokens = self.module.generate(
                inputs["input_features"],
                attention_mask=inputs["attention_mask"],
                return_timestamps=long_form,
                **self.options,
            )
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


Transcriber: TypeAlias = (
    CTCTranscriber
    | MoonshineTranscriber
    | HubertTranscriber
    | WhisperTranscriber
    | SenseVoiceTranscriber
    | FasterWhisperTranscriber
)

# -------------------------------------------------------------------------------------------------------- error rates


class ErrorCounts(NamedTuple):
    """Errors in one transcript, or in many."""

    errors: int  # insertions, deletions and substitutions together
    length: int  # words or characters of the reference; characters include the spaces between words
    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0

    @property
    def rate(self) -> float:
        """Errors per word or character of the reference (0.05 is 5 %); NaN for an empty reference."""
        return self.errors / self.length if self.length else math.nan


def word_errors(
    reference: str, hypothesis: str, normaliser: str | Normaliser = "basic", language: str | None = None
) -> ErrorCounts:
    """Count the word errors of a transcript.

    Args:
        reference: What was said; each character of a script without spaces is a word.
        hypothesis: What was recognised.
        normaliser: A name for `open_normaliser`, or a function.
        language: ISO 639 code of the reference; None: not known, and only the script counts.
    """
    return _count_errors(reference, hypothesis, normaliser, "words", language)


def character_errors(
    reference: str, hypothesis: str, normaliser: str | Normaliser = "basic", language: str | None = None
) -> ErrorCounts:
    """Count the character errors of a transcript; arguments as for `word_errors`.

    Spaces between words are characters, but for references in Korean or in a script without spaces.
    """
    return _count_errors(reference, hypothesis, normaliser, "characters", language)


def pool(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """Sum the errors of many transcripts; the sum's `rate` is the corpus rate."""
    return ErrorCounts(*map(sum, zip(ErrorCounts(0, 0), *counts, strict=True)))


def error_rates(
    references: Sequence[str],
    hypotheses: Sequence[str],
    normaliser: str | Normaliser = "basic",
    language: str | None = None,
) -> dict[str, float]:
    """Compute the corpus rates `wer` and `cer`; arguments as for `word_errors`.

    For English they are those of `jiwer.wer` and `jiwer.cer` on the normalised lists. They are NaN where all references
    are empty.
    """
    if isinstance(references, str) or isinstance(hypotheses, str):
        raise ValueError(f"expected two lists of texts, got {references!r} and {hypotheses!r}")
    if len(references) != len(hypotheses):
        raise ValueError(f"got {len(references)} references and {len(hypotheses)} hypotheses; expected as many of both")
    pairs = list(zip(references, hypotheses, strict=True))
    return {
        "wer": pool(word_errors(*pair, normaliser, language) for pair in pairs).rate,
        "cer": pool(character_errors(*pair, normaliser, language) for pair in pairs).rate,
    }


def _count_errors(
    reference: str, hypothesis: str, normaliser: str | Normaliser, unit: Unit, language: str | None
) -> ErrorCounts:
    with needed_for("the counting of errors", "jiwer", "flexicodec-lab[eval]"):
        import jiwer
    for name, text in (("reference", reference), ("hypothesis", hypothesis)):
        if not isinstance(text, str):
            raise ValueError(f"{name} is {text!r}; expected a text (the empty text if nothing was recognised)")
    # jiwer counts what is left of both texts after normalising, and splits words at U+0020 alone.
    if isinstance(normaliser, str):
        normaliser = open_normaliser(normaliser, primary_language(language))
    wanted = normaliser(reference)
    found = normaliser(hypothesis)
    if unit == "words":
        alignment: Any = jiwer.process_words(" ".join(split_words(wanted)), " ".join(split_words(found)))
    else:
        space = "" if is_spaceless(wanted or found, language) else " "
        alignment = jiwer.process_characters(space.join(wanted.split()), space.join(found.split()))
    return ErrorCounts(
        errors=alignment.insertions + alignment.deletions + alignment.substitutions,
        length=alignment.hits + alignment.deletions + alignment.substitutions,
        insertions=alignment.insertions,
        deletions=alignment.deletions,
        substitutions=alignment.substitutions,
    )


@lru_cache(maxsize=32)
def open_normaliser(spec: str = "basic", language: str | None = None) -> Normaliser:
    """Find a text normaliser by name.

    Args:
        spec: "basic": lower case, only letters, digits and apostrophes, any language (`flexicodec.asr.normalise`), less
            the vowel points of Arabic and Hebrew, and with the digits of all scripts as 0 to 9.
            "english": the same, with the titles Mr, Mrs and Dr as they are spoken, and no word of apostrophes alone.
            "whisper-english": as Whisper's authors evaluate English (contractions, numbers, titles, fillers).
            "whisper-english:SOURCE" also maps British to American spellings, by the table `normalizer.json` of a
            Whisper folder or hub id.
        language: ISO 639 code, for what "basic" does by language.
    """
    name, _, source = spec.partition(":")
    if name not in NORMALISERS or (source and name != "whisper-english"):
        known = ", ".join(NORMALISERS)
        raise ValueError(f"there is no normaliser {spec!r}; expected {known} or whisper-english:SOURCE")
    if name == "basic":
        return partial(_basic, language=language)
    if name == "english":
        return _spoken_english
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    spellings: dict[str, str] = {}
    if source:
        file = loading.fetch("Whisper's spellings", source, ["normalizer.json"]) / "normalizer.json"
        if not file.is_file():
            raise ValueError(f"{file} is missing; expected Whisper's table of spellings (a Whisper folder or hub id)")
        spellings = json.loads(file.read_text(encoding="utf-8"))
    normaliser = EnglishTextNormalizer(spellings)
    return lambda text: " ".join(normaliser(text).split())


def _basic(text: str, language: str | None) -> str:
    """Apply the normaliser "basic"."""
    plain = VOWEL_POINTS.sub("", QUOTES.sub("", normalise(text, language)))
    plain = " ".join(plain.split())
    return "".join(str(unicodedata.digit(c)) if c.isdecimal() else c for c in plain)


def _spoken_english(text: str) -> str:
    words = [SPOKEN_TITLES.get(word, word) for word in _basic(text, "en").split()]
    return " ".join(word for word in words if word.strip("'"))
