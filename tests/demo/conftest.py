"""A comparer of a tiny codec, with stand-ins for the recogniser and the aligner, and files to drop on the page."""

import numpy as np
import pytest
import soundfile

from flexicodec.corpus.alignments.alignment import Alignment, Segment
from flexicodec.corpus.alignments.phone_aligner import NotAligned
from flexicodec.demo.comparison import Comparer


class Recogniser:
    """Says how long a clip is, in characters that HTML and templates would read."""

    sample_rate = 16_000

    def transcribe(self, clips):
        return [f"<b>{{{{{len(clip) / 16000:.1f}}}}} seconds" for clip in clips]


class Aligner:
    """Finds one word of two phones, and refuses clips under a second."""

    def align(self, audio, text):
        if len(audio) < 16_000:
            raise NotAligned("too short: for a word")
        phones = (Segment(0.0, 0.3, "sil"), Segment(0.3, 0.6, "HH"), Segment(0.6, 0.9, "AY"))
        return Alignment(phones, (Segment(0.3, 0.9, "hi & <bye>"),))


@pytest.fixture
def comparer(whole):
    """Takes clips up to 5 s."""
    made = Comparer(whole, max_seconds=5.0)
    made.__dict__["transcriber"] = Recogniser()
    made.__dict__["_aligners"] = [Aligner()]
    return made


@pytest.fixture
def talk(speech, tmp_path):
    """Two seconds of speech as a 16-bit stereo WAV at 44.1 kHz, whose channels differ."""
    wave = np.interp(np.arange(88_200) / 44_100, np.arange(32_000) / 16_000, speech[0][0, 8000:40_000].numpy())
    path = tmp_path / "talk {1}.wav"
    soundfile.write(path, np.stack([wave, 0.5 * wave], 1), 44_100, subtype="PCM_16")
    return path
