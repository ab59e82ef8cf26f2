"""Tokens and codecs in lhotse, Hugging Face datasets and torchcodec; `tests/test_travelling.py` has accelerate."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from flexicodec.corpus.lists.lhotse_cuts import attach_tokens, attached_tokens
from flexicodec.tokens import Tokens

RATE = 16_000


def noise(samples, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- lhotse


@pytest.fixture
def cuts(tmp_path, whole):
    """Cuts of a recording, and their tokens; two begin within it."""
    lhotse = pytest.importorskip("lhotse")
    audio = noise(4 * RATE)
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    recording = lhotse.Recording.from_file(tmp_path / "a.wav")
    whole_cut = lhotse.MonoCut("whole", 0.0, 4.0, 0, recording=recording)
    parts = [whole_cut, whole_cut.truncate(offset=0.5, duration=1.2), whole_cut.truncate(offset=2.0, duration=0.55)]
    parts = [cut.with_id(f"cut-{i}") for i, cut in enumerate(parts)]
    tokens = []
    for cut in parts:
        start, samples = round(cut.start * RATE), round(cut.duration * RATE)
        tokens.append(whole.encode(audio[start : start + samples], frame_rate=6.0))
    return parts, tokens


def same(ours, theirs):
    return ours == theirs and ours.info == theirs.info


def test_cuts_carry_tokens_in_memory(cuts):
    for cut, tokens in zip(*cuts, strict=True):
        carried = attach_tokens(cut, tokens)
        assert same(attached_tokens(carried), tokens)
        assert carried.load_durations().sum() == int(tokens.frame_lengths)
        assert carried.load_acoustic().shape == tokens.acoustic.shape[1:]
        assert same(attached_tokens(carried.move_to_memory(load_audio=False)), tokens)
        assert not cut.custom  # the given cut stays as it was


@pytest.mark.parametrize("codebooks", [4, 0])
def test_cuts_carry_tokens_in_files(cuts, tmp_path, codebooks):
    import lhotse

    tokens = [each.keep(codebooks) for each in cuts[1]]
    with lhotse.NumpyFilesWriter(tmp_path / "arrays") as writer:
        carried = [attach_tokens(cut, each, writer) for cut, each in zip(cuts[0], tokens, strict=True)]
    lhotse.CutSet.from_cuts(carried).to_file(tmp_path / "cuts.jsonl.gz")
    read = list(lhotse.CutSet.from_file(tmp_path / "cuts.jsonl.gz"))
    assert [same(attached_tokens(cut), each) for cut, each in zip(read, tokens, strict=True)] == [True] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # lhotse leaves tar files open
def test_cuts_carry_tokens_in_shar(cuts, tmp_path):
    import lhotse

    carried = [attach_tokens(cut, tokens) for cut, tokens in zip(*cuts, strict=True)]
    fields = dict.fromkeys(("semantic", "acoustic", "durations"), "numpy")  # lilcom, the other choice, is lossy
    (tmp_path / "shar").mkdir()
    lhotse.CutSet.from_cuts(carried).to_shar(tmp_path / "shar", fields=fields, warn_unused_fields=False)
    read = list(lhotse.CutSet.from_shar(in_dir=tmp_path / "shar"))
    assert [same(attached_tokens(cut), each) for cut, each in zip(read, cuts[1], strict=True)] == [True] * 3


def test_a_cut_that_was_changed_has_no_tokens(cuts):
    (cut, other, _), (tokens, _, _) = cuts
    carried = attach_tokens(cut, tokens)
    shorter = carried.truncate(duration=1.5), carried.truncate(offset=0.01)
    for changed in (*shorter, carried.perturb_speed(1.1), carried.pad(duration=5.0)):
        with pytest.raises(ValueError, match="lasts .* s and its tokens 4 s; were they made of another cut"):
            attached_tokens(changed)
    with pytest.raises(ValueError, match="'cut-1' lasts 1.2 s and its tokens 4 s"):
        attach_tokens(other, tokens)
    with pytest.raises(ValueError, match="2 clips for cut 'cut-0'; attach one to each cut"):
        attach_tokens(cut, Tokens.cat([tokens, tokens]))
    with pytest.raises(ValueError, match="MonoCut 'cut-0' has no tokens"):
        attached_tokens(cut)


# ------------------------------------------------------------------------------------------------------------ datasets


@pytest.mark.slow
def test_a_mapped_codec_has_one_fingerprint(make_codec, tmp_path):
    """What `datasets` hashes is the function with all it holds: a changed hash would compute everything again."""
    datasets = pytest.importorskip("datasets")
    from datasets.fingerprint import Hasher

    codec = make_codec("whole")

    def add_tokens(batch):
        clips = [codec.encode(np.asarray(clip, np.float32), frame_rate=6.0) for clip in batch["audio"]]
        return Tokens.cat(clips).to_dict()

    functions = {"closure": add_tokens, "bound": codec.encode, "partial": partial(codec.encode, frame_rate=6.0)}
    before = {name: Hasher.hash(function) for name, function in functions.items()}
    rows = datasets.Dataset.from_dict({"audio": [noise(9000), noise(5000, 1), noise(12_345, 2)]})
    rows.save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(tmp_path / "rows")
    mapped = rows.map(add_tokens, batched=True, batch_size=2)
    codec.decode(Tokens.from_dict(mapped[0]))
    assert {name: Hasher.hash(function) for name, function in functions.items()} == before
    again = rows.map(add_tokens, batched=True, batch_size=2)
    assert again._fingerprint == mapped._fingerprint
    assert again.cache_files == mapped.cache_files

    # Its tokens come back from the table, as a batch and row by row.
    direct = [codec.encode(noise(samples, seed), frame_rate=6.0) for seed, samples in enumerate((9000, 5000, 12_345))]
    assert Tokens.from_dict(mapped[:]) == Tokens.cat(direct)
    assert [Tokens.from_dict(row) for row in mapped] == direct
    with torch.no_grad():
        codec.semantic_quantizer.project_in.weight.mul_(1.01)
    assert Hasher.hash(add_tokens) != before["closure"]


# ---------------------------------------------------------------------------------------------------------- torchcodec


@dataclass
class AudioSamples:
    """The attributes of torchcodec 0.17's class of this name."""

    data: torch.Tensor
    pts_seconds: float
    duration_seconds: float
    sample_rate: int


@dataclass
class AudioDecoder:
    samples: AudioSamples

    def get_all_samples(self):
        return self.samples


def test_torchcodec_samples_bring_their_rate(whole, nanocodecs):
    data = torch.tensor(noise(24_000))[None]
    samples = AudioSamples(data, 0.0, 1.0, 24_000)
    expected = whole.encode(data, sample_rate=24_000)
    for given in (samples, AudioDecoder(samples)):
        assert whole.encode(given) == whole.encode(given, sample_rate=24_000) == expected
        assert whole.tokenize(whole.features(given)) == expected
    assert nanocodecs["nano"].encode(samples) == nanocodecs["nano"].encode(data, sample_rate=24_000)
    with pytest.raises(ValueError, match="sample_rate is 16000, but the samples say 24000"):
        whole.encode(samples, sample_rate=RATE)
    stereo = AudioSamples(torch.cat([data, -data]), 0.0, 1.0, 24_000)
    with pytest.raises(ValueError, match='2 channels; pass channels="mix"'):
        whole.encode(stereo)
    assert whole.encode(stereo, channels="mix") == whole.encode(0 * data, sample_rate=24_000)
