"""Golden cases, found in a folder: outputs of upstream's own code, recorded with small random weights.

Each case describes itself: utterances, thresholds and stages are read from its files, so that cases with
other seeds and sizes run without a change here.
"""

import copy
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from golden_tts import read_tts_case
from safetensors import safe_open
from safetensors.torch import load_file

from flexicodec.encoders.fbank import stack_frames
from flexicodec.merging import unmerge
from flexicodec.models.flexicodec.convert_upstream import from_upstream
from flexicodec.models.nanocodec.convert_nemo import from_nemo, read_archive

TOLERANCE = 1e-4  # max |difference| / max |reference|
WEIGHTS, GOLDEN, FRONT_END = ".weights.safetensors", ".golden.safetensors", "frontend"
NEMO_CONFIG, NEMO_WEIGHTS, NEMO_TENSORS = "config.json", "weights.safetensors", "io.safetensors"
PER_THRESHOLD = re.compile(r"(?P<tag>[^/]+)/thr(?P<threshold>-?[\d.]+)/(?P<rest>.+)")


@dataclass(frozen=True, eq=False)
class FlexiCodecCase:
    """One model and its outputs for a few utterances, each encoded alone.

    Tensors are named TAG/stage, TAG/thrX.XX/stage and TAG/thrX.XX/nK/decoded, where upstream's K counts the semantic
    codebook. `batch/...` are upstream's padded batches, in which padding leaks: nobody wants those numbers.
    """

    config_path: Path
    name: str

    @cached_property
    def config(self):
        return json.loads(self.config_path.read_text())

    @cached_property
    def stem(self):
        return str(self.config_path.with_suffix(""))

    @cached_property
    def names(self):
        """Names of the recorded tensors, without the batches."""
        with safe_open(self.stem + GOLDEN, "pt") as file:
            return sorted(name for name in file.keys() if not name.startswith("batch/"))  # noqa: SIM118, not a dict

    @cached_property
    def tensors(self):
        return load_file(self.stem + GOLDEN)

    @cached_property
    def weights(self):
        return load_file(self.stem + WEIGHTS)

    @cached_property
    def tags(self):
        return [name.removesuffix("/audio") for name in self.names if name.endswith("/audio")]

    @cached_property
    def thresholds(self):
        """Pairs of a tag and a threshold as it is written in names."""
        found = (PER_THRESHOLD.fullmatch(name) for name in self.names)
        return sorted({(match["tag"], match["threshold"]) for match in found if match})

    def threshold(self, written):
        """The number behind a rounded name: 0.867 may be written thr0.87."""
        return min(self.config.get("thresholds", [float(written)]), key=lambda value: abs(value - float(written)))

    @cached_property
    def codec(self):
        return from_upstream(
            self.config["codec_config"],
            self.weights,
            cmvn=self.tensors["cmvn"],
            sensevoice_encoder_conf=self.config["sensevoice_encoder_conf"],
            dither=0.0,
        )

    @cache  # noqa: B019, cases live as long as the test run
    def features(self, tag):
        return self.codec.features(self.tensors[f"{tag}/audio"])

    @cache  # noqa: B019
    def tokens(self, tag, written):
        return self.codec.tokenize(self.features(tag), threshold=self.threshold(written))

    @cached_property
    def precise_decoder(self):
        return copy.deepcopy(self.codec.decoder).double()

    @cached_property
    def audio_names(self):
        """Names of recorded outputs of the decoder."""
        return [name for name in self.names if PER_THRESHOLD.fullmatch(name) and name.endswith("decoded")]

    def recorded(self, prefix):
        """Tensors directly below a prefix, by the last part of their names."""
        below = [name for name in self.names if name.startswith(prefix) and "/" not in name[len(prefix) :]]
        return {name.removeprefix(prefix): self.tensors[name] for name in below}


@dataclass(frozen=True, eq=False)
class FrontEndCase:
    """Features of awkward signals."""

    path: Path
    name: str

    @cached_property
    def tensors(self):
        return load_file(self.path)

    @cached_property
    def signals(self):
        """Signals of a whole 25 ms window; for shorter ones FunASR shrinks the window, and ours are padded instead."""
        with safe_open(self.path, "pt") as file:
            names = [name for name in file.keys() if name.endswith("/audio")]  # noqa: SIM118
            long_enough = [name for name in names if file.get_slice(name).get_shape()[0] >= 400]
        return sorted(name.removesuffix("/audio") for name in long_enough)


@dataclass(frozen=True, eq=False)
class NanoCase:
    """An LFSC or NanoCodec of NeMo's: one clip, a batch of two, and outputs of single parts for other inputs."""

    folder: Path
    name: str

    @cached_property
    def config(self):
        if (self.folder / NEMO_CONFIG).is_file():
            return json.loads((self.folder / NEMO_CONFIG).read_text())
        return read_archive(self.folder / self.archives[0])[0]

    @cached_property
    def codec(self):
        return from_nemo(self.config, self.weights)

    @cached_property
    def weights(self):
        if (self.folder / NEMO_WEIGHTS).is_file():
            return load_file(self.folder / NEMO_WEIGHTS)
        return read_archive(self.folder / self.archives[0])[1]

    @cached_property
    def tensors(self):
        return load_file(self.folder / NEMO_TENSORS)

    @cached_property
    def archives(self):
        return sorted(path.name for path in self.folder.glob("*.nemo"))


@dataclass(frozen=True)
class OtherCase:
    """A folder of tensors without a test."""

    name: str


@cache
def find_cases(folder):
    """Find every case below a folder.

    Raises:
        ValueError: There is none, or a case lacks one of its files.
    """
    cases, claimed = [], set()
    for path in sorted(folder.rglob("*.json")):
        held = json.loads(path.read_text())
        if isinstance(held, dict) and "codec_config" in held:
            parts = [path.with_suffix(ending) for ending in (WEIGHTS, GOLDEN)]
            missing = [part.name for part in parts if not part.is_file()]
            if missing:
                raise ValueError(f"{path} has no {' and no '.join(missing)} beside it")
            claimed |= set(parts)
            cases.append(FlexiCodecCase(path, str(path.relative_to(folder).with_suffix(""))))
        elif isinstance(held, dict) and "audio_encoder" in (held.get("model") or held) and path.name == NEMO_CONFIG:
            archived = any(path.parent.glob("*.nemo"))
            parts = [path.with_name(name) for name in (NEMO_TENSORS,) + (NEMO_WEIGHTS,) * (not archived)]
            missing = [part.name for part in parts if not part.is_file()]
            if missing:
                raise ValueError(f"{path} has no {' and no '.join(missing)} beside it")
            claimed |= {path.with_name(name) for name in (NEMO_WEIGHTS, NEMO_TENSORS)}
            cases.append(NanoCase(path.parent, str(path.parent.relative_to(folder))))
        else:
            case, files = read_tts_case(path, held, str(path.relative_to(folder).with_suffix("")))
            claimed |= files
            cases += [case] if case else []
    for path in sorted(folder.rglob(NEMO_TENSORS)):
        if path not in claimed and any(path.parent.glob("*.nemo")):  # an archive brings config and weights
            claimed.add(path)
            cases.append(NanoCase(path.parent, str(path.parent.relative_to(folder))))
    others = set()
    for path in sorted(folder.rglob("*.safetensors")):
        if path.stem.startswith(FRONT_END):
            cases.append(FrontEndCase(path, str(path.relative_to(folder).with_suffix(""))))
        elif path not in claimed and not (path.parent / "losses.json").is_file():  # which test_parity_losses reads
            others.add(str(path.parent.relative_to(folder)))
    cases += [OtherCase(name) for name in sorted(others)]
    if not cases:
        raise ValueError(
            f"no golden case below {folder}; expected NAME.json, NAME{WEIGHTS} and NAME{GOLDEN}, or a folder with "
            f"{NEMO_CONFIG}, {NEMO_WEIGHTS} and {NEMO_TENSORS}"
        )
    return cases


# -------------------------------------------------------------------------------------------------------- our numbers


@torch.no_grad()
def encoder_stages(case, tag):
    """Outputs of the stages before merging, by their names in the goldens."""
    codec, encoder, features = case.codec, case.codec.semantic_encoder, case.features(tag)
    audio = case.tensors[f"{tag}/audio"][None]
    lengths = torch.tensor([audio.shape[1]])
    front_end = encoder.front_end
    fbank = front_end.fbank(audio)
    stacked = stack_frames(fbank, torch.tensor([fbank.shape[1]]), front_end.config.stack, front_end.config.stride)
    normalised, encoder_lengths = front_end(audio, lengths)
    prompt = encoder.prompt.weight[list(encoder.config.prompt)]
    sv_in = torch.cat([prompt[None], normalised], dim=1)
    block0 = []
    with encoder.encoder.layers[0].final_layernorm.register_forward_pre_hook(
        lambda _, inputs: block0.append(inputs[0])
    ):
        embedded = encoder.embed(sv_in, torch.ones(1, dtype=torch.long))
        sv_hidden = embedded
        for layer in encoder.layers:
            sv_hidden = layer(sv_hidden, None)
    whole_frames = -(-lengths // codec.frame_size)
    return {
        "fbank": fbank[0],
        "fbank_knf": fbank[0],
        "lfr": stacked[0],
        "features": normalised,
        "sv_in": sv_in,
        "sv_block0": block0[0],
        "sv_hidden": sv_hidden,
        "semantic_ds": features.semantic,
        "dac_enc": codec.encode_acoustic(audio, lengths, whole_frames),
        "sim": features.similarities,
    }


@torch.no_grad()
def token_stages(case, tag, written):
    """Outputs of the stages between merging and the decoder, each on our own output of the previous one."""
    codec, features, tokens = case.codec, case.features(tag), case.tokens(tag, written)
    durations, lengths = tokens.durations, tokens.token_lengths
    sem_agg = codec.semantic_aggregator(features.semantic, durations, features.lengths)
    ac_agg = codec.acoustic_aggregator(features.acoustic, durations, features.lengths)
    cn_enc = codec.semantic_encoder_stack(sem_agg, lengths)
    fsq_out = codec.semantic_quantizer(cn_enc, lengths).latents
    cn_dec = codec.semantic_decoder_stack(fsq_out, lengths)
    latents = codec.embed(tokens)
    frames = unmerge(latents, durations)
    return {
        "token_lengths": durations,
        "semantic_codes": tokens.semantic[:, None],
        "acoustic_codes": tokens.acoustic,
        "sem_agg": sem_agg,
        "ac_agg": ac_agg,
        "cn_enc": cn_enc,
        "fsq_z": codec.semantic_quantizer.project_in(cn_enc.transpose(1, 2)),
        "fsq_out": fsq_out,
        "cn_dec": cn_dec,
        "rvq_out": codec.acoustic_quantizer(ac_agg - cn_dec, lengths).latents,
        "decoder_latent": latents,
        "bottleneck_in": frames,
        "bottleneck_out": codec.bottleneck(frames, tokens.frame_lengths) if codec.bottleneck else frames,
    }


@torch.no_grad()
def audio_tolerance(case, tokens, audio):
    """Return the tolerance between two float32 decoders on these tokens, given the audio [B, S] of one of them.

    A random decoder can blow the last bit of its input up a thousandfold: upstream's own code, run on a CPU other than
    the one that recorded `small_b`, misses the recording by 2.8e-4. So the distance of `audio` from a float64 decoder
    is allowed on either side, and has to be as small as rounding: 1e-3 at most.
    """
    frames = unmerge(case.codec.embed(tokens), tokens.durations)
    lengths = tokens.frame_lengths
    frames = case.codec.bottleneck(frames, lengths) if case.codec.bottleneck else frames
    exact = case.precise_decoder(frames.double(), lengths)[:, 0]
    noise = difference(audio[:, : exact.shape[1]].double(), exact[:, : audio.shape[1]])
    assert noise < 10 * TOLERANCE, f"off by {noise:.2g} even from a decoder in float64"
    return TOLERANCE + 2 * noise


def difference(ours, theirs):
    """max |ours - theirs| / max |theirs|."""
    if theirs.numel() == 0:
        return 0.0
    scale = float(theirs.abs().max())
    return float((ours - theirs).abs().max()) / (scale or 1.0)


def disagreements(ours, recorded):
    """List differences from the recorded stages: integers anywhere, floats by more than the tolerance."""
    found = []
    for name, theirs in recorded.items():
        if ours[name].shape != theirs.shape:
            found.append(f"{name}: {tuple(ours[name].shape)} instead of {tuple(theirs.shape)}")
        elif theirs.is_floating_point():
            error = difference(ours[name], theirs)
            found += [f"{name}: off by {error:.2g}"] * (not error <= TOLERANCE)
        elif not torch.equal(ours[name].long(), theirs.long()):
            wrong = int((ours[name].long() != theirs.long()).sum())
            found.append(f"{name}: {wrong} of {theirs.numel()} differ")
    return found
