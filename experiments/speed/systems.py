"""The compared codecs: each is loaded by name and has `encode` and `decode` for a batch of clips.

Random weights except for flexicodec-mini: speed does not depend on their values. The peer's interpreter runs this file
too, so this package is imported lazily.
"""

import os
from pathlib import Path

import torch

NAMES = ("ours", "compiled", "mini", "onnx", "peer", "mimi", "encodec", "dac")
EXPORTED = "FLEXICODEC_EXPORTED"  # environment variable: folder of the "onnx" system
FRAME_RATE = 8.33  # Hz, for codecs with a choice
CODEBOOKS = 7  # acoustic codebooks, as in the paper


def load(name: str, device: str = "cpu", precision: str = "float32"):
    """Build a system; those of transformers in their default configs, DAC and EnCodec at 24 kHz like Mimi."""
    if name in ("ours", "compiled", "mini", "onnx"):
        return Ours(name, device, precision)
    if precision != "float32":
        raise ValueError(f"{name} is measured in float32 only, got {precision}")
    return Peer() if name == "peer" else Transformers(name, device)


class Ours:
    """Systems of this package: the released architecture, plain or compiled, the mini, an export under onnxruntime."""

    sample_rate = 16_000

    def __init__(self, name: str, device: str, precision: str):
        import flexicodec
        from flexicodec.models.flexicodec.model import FlexiCodec

        self.precision = precision
        if name == "onnx":
            from flexicodec.export.runtime import load_exported

            self.codec = load_exported(os.environ[EXPORTED], threads=torch.get_num_threads())
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            codec = flexicodec.load("flexicodec-mini") if name == "mini" else FlexiCodec().eval()
        self.codec = codec.to(device)
        if name == "compiled":
            self.codec.compile()
        self.codec.fingerprint  # noqa: B018 (hashed once, at first use)

    def encode(self, audio, lengths=None):
        choices = dict(frame_rate=FRAME_RATE, num_codebooks=CODEBOOKS)
        if self.precision != "float32":
            choices["precision"] = self.precision
        return self.codec.encode(audio, lengths, **choices)

    def decode(self, tokens):
        choices = {} if self.precision == "float32" else {"precision": self.precision}
        return self.codec.decode(tokens, **choices)


class Peer:
    """`flexicodec` 0.1.2, at the threshold for the same rate on its random features."""

    sample_rate = 16_000

    def __init__(self):
        import peer

        self.model, self.threshold = peer.prepare(), None

    def encode(self, audio, lengths=None):
        from flexicodec.infer import encode_flexicodec

        if self.threshold is None:
            similarities = encode_flexicodec(audio[:1], self.model, 16_000, CODEBOOKS + 1, 0.99)["sim_matrix"]
            self.threshold = float(similarities.flatten().float().quantile(FRAME_RATE / 12.5))
        return encode_flexicodec(audio, self.model, 16_000, CODEBOOKS + 1, self.threshold)

    def decode(self, tokens):
        names = ("semantic_codes", "acoustic_codes", "token_lengths")
        return self.model["model"].decode_from_codes(**{name: tokens[name] for name in names})


class Transformers:
    """Mimi with 8 codebooks, EnCodec at 6 kbps, or DAC with all of its codebooks."""

    def __init__(self, name: str, device: str):
        import transformers

        config, model = {"mimi": ("MimiConfig", "MimiModel"), "encodec": ("EncodecConfig", "EncodecModel")}.get(
            name, ("DacConfig", "DacModel")
        )
        settings = {"sampling_rate": 24_000} if name == "dac" else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = getattr(transformers, model)(getattr(transformers, config)(**settings)).eval().to(device)
        self.sample_rate = self.model.config.sampling_rate
        self.choices = {"mimi": {"num_quantizers": 8}, "encodec": {"bandwidth": 6.0}}.get(name, {})

    def encode(self, audio, lengths=None):
        return self.model.encode(audio[:, None], **self.choices)

    def decode(self, codes):
        scales = {"audio_scales": codes.audio_scales} if "audio_scales" in codes else {}
        return self.model.decode(audio_codes=codes.audio_codes, **scales)


def speech(path: Path, seconds: float, sample_rate: int) -> torch.Tensor:
    """Read the example, resample it and repeat it to this duration."""
    import soundfile

    audio, rate = soundfile.read(path, dtype="float32")
    if rate != sample_rate:
        import soxr

        audio = soxr.resample(audio, rate, sample_rate)
    wave = torch.from_numpy(audio)
    samples = int(seconds * sample_rate)
    return wave.repeat(-(-samples // len(wave)))[:samples]
