"""The released architecture against upstream's own outputs: integers exactly, floats to 1e-4 of the largest value."""

from dataclasses import replace

import pytest
import torch
from golden_cases import PER_THRESHOLD, TOLERANCE, difference, disagreements, encoder_stages, token_stages

from flexicodec.tokens import Tokens


def test_every_weight_finds_its_place(case):
    assert case.codec.load_report.unexpected_extras == ()
    assert case.codec.load_report.semantic_source == "checkpoint"


def test_encoders(case, tag):
    recorded = case.recorded(f"{tag}/")
    del recorded["audio"]
    ours = encoder_stages(case, tag)
    recorded = {name: tensor for name, tensor in recorded.items() if name in ours}
    assert disagreements(ours, recorded) == []
    assert recorded


def test_tokens_and_latents(case, tag, threshold):
    ours = token_stages(case, tag, threshold)
    recorded = case.recorded(f"{tag}/thr{threshold}/")
    recorded = {name: tensor for name, tensor in recorded.items() if name in ours}
    assert disagreements(ours, recorded) == []
    assert recorded


def test_fewer_codebooks_are_the_first_rows(case, tag, threshold):
    codes = case.tensors[f"{tag}/thr{threshold}/acoustic_codes"].long()
    for count in range(codes.shape[1] + 1):
        tokens = case.codec.tokenize(
            case.features(tag), threshold=case.threshold(threshold), num_codebooks=count
        )
        assert torch.equal(tokens.acoustic, codes[:, :count])
        assert tokens == case.tokens(tag, threshold).keep(acoustic=count)


def test_encode_is_features_then_tokenize(case, tag, threshold):
    audio = case.tensors[f"{tag}/audio"]
    assert case.codec.encode(audio, threshold=case.threshold(threshold)) == case.tokens(tag, threshold)


def test_decoded_audio(case, tag, threshold):
    """Where the length is unknown all of 1280 T - 16 samples come out; else as many as went in, in silence at the end."""
    prefix = f"{tag}/thr{threshold}/"
    names = [name for name in case.names if name.startswith(prefix) and name.endswith("/decoded")]
    if not names:
        pytest.skip("no audio was recorded at this threshold")
    for name in names:
        expected = case.tensors[name][:, 0]
        count = name.removeprefix(prefix).removesuffix("decoded").strip("/")  # n3: two acoustic codebooks
        tokens = case.tokens(tag, threshold)
        tokens = tokens.keep(acoustic=int(count[1:]) - 1) if count else tokens
        whole = case.codec.decode(replace(tokens, audio_lengths=None))
        assert whole.shape == expected.shape
        assert difference(whole, expected) <= TOLERANCE, name

        samples = case.tensors[f"{tag}/audio"].shape[0]
        cut = case.codec.decode(tokens)
        assert cut.shape == (1, samples)
        overlap = min(samples, expected.shape[1])
        assert difference(cut[:, :overlap], expected[:, :overlap]) <= TOLERANCE, name
        assert not cut[:, overlap:].any()


def test_recorded_codes_decode_to_the_recorded_audio(case, tag, threshold):
    """The decoding half alone, from upstream's own integers."""
    recorded = case.recorded(f"{tag}/thr{threshold}/")
    if "decoded" not in recorded:
        pytest.skip("no audio was recorded at this threshold")
    tokens = Tokens(
        semantic=recorded["semantic_codes"][:, 0],
        acoustic=recorded["acoustic_codes"],
        durations=recorded["token_lengths"],
        format=replace(case.codec.format, fingerprint=None),
    )
    assert difference(case.codec.decode(tokens), recorded["decoded"][:, 0]) <= TOLERANCE


def test_a_padded_batch_gives_what_each_clip_gave_alone(case, threshold):
    clips = [case.tensors[f"{tag}/audio"] for tag in case.tags]
    lengths = torch.tensor([len(clip) for clip in clips])
    generator = torch.Generator().manual_seed(0)
    audio = 2 * torch.rand(len(clips), int(lengths.max()) + 2999, generator=generator) - 1
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip
    tokens = case.codec.encode(audio, lengths, threshold=case.threshold(threshold))
    decoded = case.codec.decode(tokens)
    for i, tag in enumerate(case.tags):
        recorded = case.recorded(f"{tag}/thr{threshold}/")
        if not recorded:
            continue
        count = int(tokens.token_lengths[i])
        ours = {
            "token_lengths": tokens.durations[i : i + 1, :count],
            "semantic_codes": tokens.semantic[i : i + 1, None, :count],
            "acoustic_codes": tokens.acoustic[i : i + 1, :, :count],
        }
        assert disagreements(ours, {name: recorded[name] for name in ours if name in recorded}) == [], tag
        alone = case.codec.decode(case.tokens(tag, threshold))
        assert difference(decoded[i : i + 1, : alone.shape[1]], alone) <= TOLERANCE
        assert not decoded[i, alone.shape[1] :].any()


def test_every_recorded_tensor_is_compared(case):
    """A tensor that nothing above looks at is named, not passed over in silence."""
    known = {"cmvn"}
    known |= {f"{tag}/{stage}" for tag in case.tags for stage in ("audio", *encoder_stages(case, case.tags[0]))}
    stages = token_stages(case, *case.thresholds[0])
    for name in case.names:
        match = PER_THRESHOLD.fullmatch(name)
        if match and (match["rest"] in stages or match["rest"].endswith("decoded")):
            known.add(name)
    if left := sorted(set(case.names) - known):
        pytest.skip(f"nothing compares {', '.join(left)}")
