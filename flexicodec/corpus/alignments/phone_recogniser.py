"""Phones of a clip and their times without a text, in IPA and any language, by the recogniser of hama (Apache-2.0).

It is a CTC network of 20 ms frames: a phone is marked where it is recognised and lasts to the next mark, so starts are
within 40 ms of MFA's for 80 % of phones (median difference 0), and pauses are not found. Its training data are not
published. It is insensitive to level, rate and added silence, and so a second opinion beside `PhoneAligner`.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from flexicodec.corpus.alignments.alignment import Alignment, Segment
from flexicodec.corpus.alignments.phone_aligner import NotAligned
from flexicodec.installed_files import PinnedFile

SAMPLE_RATE = 16_000
LONGEST_PHONE = 0.3  # seconds after which the rest of a span is a pause
WEIGHTS = PinnedFile(
    "hama==1.7.0", "hama/assets/asr_waveform.hama", "a9fcfe73e179ca48e399cd76a90a6b3e1887bf5037ecc52b778d13a149563328"
)


class PhoneRecogniser:
    """Recognises phones; one per process."""

    def __init__(self) -> None:
        path = WEIGHTS.find()
        from hama.asr import ASRModel

        self._model: Any = ASRModel(model_path=path)

    def align(self, audio: Float[np.ndarray, " samples"], text: str = "") -> Alignment:
        """Recognise the phones of a clip at 16 kHz, full scale at 1; the text is not used.

        Raises:
            NotAligned: There is no phone: silence, noise, or a clip that is too short.
        """
        seconds = len(audio) / SAMPLE_RATE
        spans = []
        if len(audio) >= SAMPLE_RATE // 10:
            spans = self._model.phoneme_spans(self._model.transcribe_waveform(audio, SAMPLE_RATE))
        phones = []
        for span in spans:
            start = min(span.start_ms / 1000, seconds)
            end = min(span.end_ms / 1000, start + LONGEST_PHONE, seconds)
            if end > start:
                phones.append(Segment(start, end, span.phoneme))
        if not phones:
            raise NotAligned(f"no phones recognised: in {seconds:.2f} s")
        return Alignment(tuple(phones))
