"""Speaker similarity: a tiny WavLM with random weights, opened from its folder; cosines of known vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch

from flexicodec.corpus import read_manifest, read_utterance
from flexicodec.evaluation.metrics.ge2e import part_starts
from flexicodec.evaluation.metrics.speaker import open_speaker_encoder, similarity
from tests.evaluation.stand_ins import assert_fingerprint_of_weights, save_hubert, save_wavlm


@pytest.fixture(scope="module")
def clips(speech):
    first, second = (clip[0].numpy() for clip in speech)
    return [first[:24_000], second[4000:30_000], np.zeros(8000, np.float32), second[5000:9000]]


@pytest.fixture(scope="module")
def aligned_clips():
    """Four clips of LJSpeech's reader."""
    folder = Path(__file__).parents[2] / "data" / "aligned"
    return [read_utterance(each, 16_000) for each in read_manifest(folder / "aligned.jsonl")[:4]]


@pytest.fixture(scope="module", params=["group", "layer"])
def encoder(request, tmp_path_factory):
    """As wavlm-base-plus-sv is, and as the large models are."""
    return open_speaker_encoder(f"wavlm:{save_wavlm(tmp_path_factory.mktemp(request.param), request.param)}")


def test_a_batch_is_what_each_clip_is_alone(encoder, clips):
    together = encoder.embed(clips)
    assert together.shape == (4, 10)
    assert together == pytest.approx(np.concatenate([encoder.embed([clip]) for clip in clips]), abs=1e-6)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_embeddings_are_the_models(encoder, clips):
    """The x-vector of the clip brought to zero mean and unit variance, as its extractor does."""
    wave = (clips[0] - clips[0].mean()) / np.sqrt(clips[0].var() + 1e-7)
    with torch.no_grad():
        vector = encoder.module(torch.from_numpy(wave)[None]).embeddings[0].numpy()
    assert encoder.embed(clips[:1])[0] == pytest.approx(vector / np.linalg.norm(vector), abs=1e-4)


def test_a_fingerprint_is_of_the_weights(encoder):
    assert_fingerprint_of_weights(encoder)


def test_very_short_clips_have_no_embedding(encoder, clips):
    found = encoder.embed([clips[0], clips[0][:16], clips[0][:300], clips[0][:1]])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    assert encoder.embed([]).shape == (0, 10)


@pytest.fixture(scope="module")
def ge2e():
    return open_speaker_encoder("ge2e")


def test_ge2e_is_resemblyzers(ge2e, speech):
    """The largest dimensions, recorded with Resemblyzer 0.1.4 on the clips at -24 dBFS (weights are in float16)."""
    recorded = [
        {243: 0.29215, 213: 0.23709, 160: 0.22736, 45: 0.2051, 180: 0.18199, 146: 0.16348},
        {218: 0.23401, 155: 0.23315, 243: 0.21654, 249: 0.20177, 236: 0.19672, 103: 0.19477},
    ]
    found = ge2e.embed([clip[0].numpy() for clip in speech])
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    for row, values in zip(found, recorded, strict=True):
        assert row[list(values)] == pytest.approx(list(values.values()), abs=5e-4)


def test_ge2e_tells_speakers_apart_and_not_levels(ge2e, aligned_clips, speech):
    """Four clips of one reader, and two other speakers."""
    same = [wave[:80_000] for wave in aligned_clips]
    others = [clip[0].numpy() for clip in speech]
    embeddings = ge2e.embed([*same, *others, others[0] / 10])
    cosines = embeddings @ embeddings.T
    within = cosines[:4, :4][np.triu_indices(4, 1)]
    across = np.concatenate([cosines[:4, 4:6].ravel(), cosines[4, 5:6]])
    assert within.min() > across.max() + 0.05
    assert cosines[4, 6] == pytest.approx(1, abs=1e-4)


def test_ge2e_embeds_no_silence_and_nothing_under_two_seconds(ge2e, speech):
    wave = speech[0][0].numpy()
    found = ge2e.embed([wave[:32_000], wave[:31_999], np.zeros(48_000, np.float32)])
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1:]).all()
    assert ge2e.embed([]).shape == (0, 256)
    assert_fingerprint_of_weights(ge2e)


@pytest.mark.parametrize(
    ("seconds", "starts"),
    [(2.0, [0, 77]), (2.6, [0, 77]), (3.0, [0, 77, 154]), (5.0, [0, 77, 154, 231, 308])],
)
def test_parts_are_those_of_resemblyzer(seconds, starts):
    """Recorded from `VoiceEncoder.compute_partial_slices` at its defaults."""
    assert part_starts(round(seconds * 16_000)) == starts


def test_cosines_of_known_vectors():
    a = np.array([[1.0, 0.0], [3.0, 4.0], [1.0, 1.0], [0.0, 0.0], [np.nan, 1.0]])
    b = np.array([[0.0, 2.0], [6.0, 8.0], [-2.0, -2.0], [1.0, 0.0], [1.0, 1.0]])
    assert similarity(a, b) == pytest.approx([0.0, 1.0, -1.0, np.nan, np.nan], nan_ok=True)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"shapes \[2, 3\] and \[2, 4\]"):
        similarity(np.zeros((2, 3)), np.zeros((2, 4)))


def test_what_is_no_speaker_encoder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'ecapa:x' is no speaker encoder; expected wavlm:SOURCE.*or ge2e"):
        open_speaker_encoder("ecapa:x")
    with pytest.raises(ValueError, match="cannot open 'nobody/nothing' as a speaker encoder"):
        open_speaker_encoder("wavlm:nobody/nothing")
    save_hubert(tmp_path)
    with pytest.raises(ValueError, match="cannot open .* as a speaker encoder"):
        open_speaker_encoder(f"wavlm:{tmp_path}")
