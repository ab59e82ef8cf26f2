"""Recognisers that turn decoded speech into text, all behind one interface.

Conventions: clips are float arrays [S] at the transcriber's sample rate, full scale at 1, of any lengths; texts come
back as the recogniser writes them, before normalising. Decoding is greedy, without sampling and without a language
model of its own, so that the same clips give the same texts, whatever stands beside a clip in the batch.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from flexicodec.asr import Recognizer
from flexicodec.audio import collate
from flexicodec.evaluation.listeners import Listener, open_exactly
from flexicodec.evaluation.sensevoice import SenseVoiceTranscriber
from flexicodec.evaluation.sources import check_clips, opening, split_spec
from flexicodec.evaluation.systems import weights_digest

KINDS = ("ctc", "whisper", "hubert", "sensevoice")


class Transcriber(Protocol):
    """Whatever writes down speech.

    Attributes:
        name: The spec it was opened by; belongs beside every error rate.
        sample_rate: Hz of the clips it takes.
    """

    name: str
    sample_rate: int

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        ...

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Write down each clip; all of them are one batch, so that the caller bounds the memory.

        Raises:
            ValueError: See `flexicodec.evaluation.sources.check_clips`.
        """
        ...


def open_transcriber(
    spec: str = "ctc:recognizer-mini", device: str | torch.device | None = None, *, language: str = "en"
) -> Transcriber:
    """Open a recogniser.

    Args:
        spec: "ctc:recognizer-mini" (ships with the package, small and weak; the number that always exists) or
            "ctc:FOLDER", a recogniser of `flexicodec train-asr`; "whisper:SOURCE" (openai/whisper-large-v3);
            "hubert:SOURCE" (facebook/hubert-large-ls960-ft, or any CTC model of transformers over raw audio);
            "sensevoice:FOLDER" (SenseVoiceSmall, by the extra `funasr`). Sources are folders or hub ids.
        device: Where it runs; None means the CPU.
        language: What is spoken, for the recognisers that know several (multilingual Whisper, SenseVoice).

    Raises:
        ValueError: No such kind, or weights that cannot be had or read; says where was looked and what to do.
        ImportError: "sensevoice" without funasr.
    """
    kind, source = split_spec(spec, KINDS, "transcriber")
    place = torch.device(device or "cpu")
    if kind == "ctc":
        return CTCTranscriber(spec, source, place)
    if kind == "hubert":
        return HubertTranscriber(spec, source, place)
    if kind == "whisper":
        return WhisperTranscriber(spec, source, place, language)
    return SenseVoiceTranscriber(spec, source, place, language)


class CTCTranscriber:
    """A recogniser of this package (`flexicodec.asr`)."""

    def __init__(self, name: str, source: str, device: torch.device):
        self.name = name
        self.recognizer = Recognizer.load(source, device)
        self.sample_rate = self.recognizer.sample_rate

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return weights_digest(self.recognizer)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """See `Transcriber`."""
        waves = check_clips(clips)
        return self.recognizer.transcribe(*collate([torch.from_numpy(wave) for wave in waves])) if waves else []


class HubertTranscriber:
    """A CTC model of transformers over raw audio; clips shorter than its first frame (25 ms) give an empty text."""

    def __init__(self, name: str, source: str, device: torch.device):
        from transformers import AutoTokenizer

        self.name = name
        what = "a CTC recogniser of transformers"
        self.listener = Listener(what, source, "AutoModelForCTC", device)
        with opening(what, source):
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.sample_rate = self.listener.sample_rate

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return weights_digest(self.listener.model)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """See `Transcriber`."""
        waves = check_clips(clips)
        texts = [""] * len(waves)
        for together, samples, mask in self.listener.batches(waves):
            with torch.no_grad():
                path = self.listener.model(samples, attention_mask=mask).logits.argmax(dim=-1)
            for row, index in enumerate(together):
                valid = path[row, : self.listener.frames(len(waves[index]))]
                texts[index] = self.tokenizer.decode(valid.tolist(), skip_special_tokens=True).strip()
        return texts


class WhisperTranscriber:
    """Whisper of transformers, greedy; clips of more than 30 s are heard one by one, window after window."""

    def __init__(self, name: str, source: str, device: torch.device, language: str = "en"):
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        self.name = name
        with opening("Whisper", source):
            self.processor: Any = WhisperProcessor.from_pretrained(source)
            self.model = open_exactly(WhisperForConditionalGeneration, source).to(device).eval()
        self.sample_rate = int(self.processor.feature_extractor.sampling_rate)
        self.settings: dict[str, Any] = {"do_sample": False, "num_beams": 1}
        if getattr(self.model.generation_config, "is_multilingual", False):
            self.settings |= {"language": language, "task": "transcribe"}

    @property
    def fingerprint(self) -> str:
        """Digest of the weights."""
        return weights_digest(self.model)

    def transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        """See `Transcriber`."""
        waves = check_clips(clips)
        window = self.processor.feature_extractor.n_samples
        texts = [""] * len(waves)
        short = [index for index, wave in enumerate(waves) if len(wave) <= window]
        for together in [short] * bool(short) + [[index] for index in range(len(waves)) if index not in short]:
            heard = self._hear([waves[index] for index in together], long=len(waves[together[0]]) > window)
            for index, text in zip(together, heard, strict=True):
                texts[index] = text
        return texts

    def _hear(self, waves: Sequence[np.ndarray], long: bool) -> list[str]:
        """Transcribe clips that all fit into the window, or a single one that does not."""
        lengths = {"truncation": False, "padding": "longest"} if long else {}
        ready = self.processor.feature_extractor(
            waves, sampling_rate=self.sample_rate, return_attention_mask=True, return_tensors="pt", **lengths
        ).to(self.model.device)
        with torch.no_grad():
            found = self.model.generate(
                ready["input_features"], attention_mask=ready["attention_mask"], return_timestamps=long, **self.settings
            )
        return [text.strip() for text in self.processor.batch_decode(found, skip_special_tokens=True)]
