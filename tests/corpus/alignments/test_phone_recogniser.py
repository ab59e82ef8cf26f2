"""Phones without a text, by hama: what it is insensitive to, and times against MFA."""

from pathlib import Path

import numpy as np
import pytest

from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.corpus.alignments.alignment import read_alignment
from flexicodec.corpus.alignments.phone_aligner import NotAligned
from flexicodec.corpus.alignments.phone_recogniser import WEIGHTS, PhoneRecogniser
from flexicodec.corpus.alignments.phones import without_silence

RECORDED = "m ʌ ð ɝ i æ m g oʊ ɪ ŋ t oʊ s u d i m ɛ d ɪ s ə n"
pytestmark = pytest.mark.skipif(not WEIGHTS.is_installed(), reason="needs hama")


@pytest.fixture(scope="module")
def recogniser():
    return PhoneRecogniser()


@pytest.fixture(scope="module")
def clip(speech):
    return speech[0][0].numpy()


def labels(alignment):
    return " ".join(phone.label for phone in alignment.phones)


def test_phones_are_those_that_hama_writes(recogniser, clip):
    """Recorded with hama 1.7.0: "mother i'm going to study medicine"."""
    assert labels(recogniser.align(clip)) == RECORDED


@pytest.mark.parametrize("gain", [0.3, -1.0])
def test_level_and_polarity_hardly_matter(recogniser, clip, gain):
    assert labels(recogniser.align(clip * gain)) == RECORDED


def test_silence_in_front_moves_all_by_its_length(recogniser, clip):
    plain, later = (recogniser.align(each) for each in (clip, np.pad(clip, (8000, 0))))
    assert labels(later) == labels(plain)
    moved = [b.start - a.start for a, b in zip(plain.phones, later.phones, strict=True)]
    assert np.median(moved) == pytest.approx(0.5, abs=0.021)


def test_silence_and_noise_have_no_phones(recogniser):
    noise = 0.01 * np.random.default_rng(0).standard_normal(32_000)
    for audio in (np.zeros(32_000), noise, noise[:800], noise[:0]):
        with pytest.raises(NotAligned, match="no phones recognised"):
            recogniser.align(audio.astype(np.float32))


def test_starts_are_near_those_of_mfa(recogniser):
    folder = Path(__file__).parents[2] / "data" / "aligned"
    differences = []
    counts = []
    for utterance in read_manifest(folder / "aligned.jsonl")[:4]:
        ours = np.array([p.start for p in recogniser.align(read_utterance(utterance, 16_000)).phones])
        theirs = np.array([p.start for p in without_silence(read_alignment(utterance.alignment).phones)])
        differences += np.abs(ours[:, None] - theirs).min(axis=1).tolist()
        counts.append(len(ours) / len(theirs))
    assert np.percentile(differences, 80) <= 0.045
    assert np.mean(counts) == pytest.approx(1, abs=0.1)
