"""Record small golden cases of NeMo's codec for tests/data: its generator, unmodified, with small random weights.

    python experiments/nanocodec/golden.py DIR        # DIR: see peer.py

The cases have the layout of the larger ones for `tests/parity --goldens`, with three stages instead of five and a sixth
of a second of audio, a megabyte in total.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peer
import torch
from safetensors.torch import save_file
from torch import Tensor

import flexicodec
from flexicodec.models.nanocodec.config import DecoderConfig, EncoderConfig, NanoCodecConfig, with_causality
from flexicodec.quantize import GroupedFSQConfig

GOLDENS = Path(__file__).parents[2] / "tests" / "data" / "goldens"
SAMPLES, SHORTER, START = 3601, 1800, 30_000
MARGIN = 1e-3  # distance of every quantised value from a rounding boundary, so that tokens can be compared exactly

NANO = NanoCodecConfig(
    encoder=EncoderConfig((4, 6, 7), 2),
    decoder=DecoderConfig((7, 6, 4), 24),
    quantizer=GroupedFSQConfig(4, (9, 8, 8, 7)),
)
LFSC = NanoCodecConfig(
    encoder=replace(NANO.encoder, padding_mode="reflect", dilations=(1,)),
    decoder=replace(
        with_causality(NANO, encoder=False, decoder=False).decoder,
        padding_mode="reflect",
        activation="lrelu",
        output_activation="tanh",
    ),
    quantizer=GroupedFSQConfig(3),
)
CASES = {
    "nano_lfsc": LFSC,
    "nano_causal_decoder": NANO,
    "nano_causal": replace(with_causality(NANO, encoder=True, decoder=True), quantizer=GroupedFSQConfig(3)),
}


@torch.no_grad()
def randomise(model: Any, audio: Tensor, lengths: Tensor, seed: int) -> None:
    """Set weights that preserve the scale of a signal, with latents over all levels and output above silence."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    for name, weight in model.named_parameters():
        if name.endswith("original1"):
            weight.copy_(draw(weight))
        elif name.endswith("original0"):
            weight.fill_(0.9).mul_(1 + 0.1 * draw(weight))
        elif name.endswith("alpha"):
            weight.fill_(1.0).mul_(1 + 0.2 * draw(weight))
        else:
            weight.copy_(0.05 * draw(weight))
    clip = {"audio": audio, "audio_len": lengths}
    centre(model.audio_encoder.post_conv.conv, 1.0, lambda: model.encode_audio(**clip))
    centre(model.audio_decoder.post_conv.conv, 0.4, lambda: model(**clip))


def centre(conv: Any, deviation: float, run: Callable[[], Any]) -> None:
    """Rescale a last layer to outputs of zero mean and this standard deviation in every channel of a run."""
    given: list[Tensor] = []
    with conv.register_forward_hook(lambda *call: given.append(call[-1][0])):
        run()
    scale = deviation / given[0].std(dim=1)
    conv.parametrizations.weight.original0.mul_(scale[:, None, None])
    conv.bias.copy_((conv.bias - given[0].mean(dim=1)) * scale)


def margin(config: NanoCodecConfig, latents: Tensor) -> float:
    """Return the smallest distance of a value from a rounding boundary."""
    levels = torch.tensor(config.quantizer.levels * config.quantizer.num_groups).double()[:, None]
    bound, offset = (levels - 1) / 2 * (1 - 1e-3), 0.5 * (levels % 2 == 0)
    values = bound * torch.tanh(latents.double() + torch.tan(offset / bound)) - offset
    return float((values - values.floor() - 0.5).abs().min())


@torch.no_grad()
def record(model: Any, audio: Tensor, batch: Tensor, batch_lengths: Tensor, seed: int) -> dict[str, Tensor]:
    """Run every part of a model, for the parity tests."""
    found: dict[str, Tensor] = {}
    for prefix, clips, lengths in (
        ("", audio, torch.tensor([audio.shape[1]])),
        ("batch_", batch, batch_lengths),
    ):
        found[f"{prefix}audio"], found[f"{prefix}audio_len"] = clips, lengths
        encoded = model.encode_audio(audio=clips, audio_len=lengths)
        found[f"{prefix}encoded"], found[f"{prefix}encoded_len"] = encoded
        found[f"{prefix}tokens"], frames = model.encode(audio=clips, audio_len=lengths)
        found[f"{prefix}audio_out"], found[f"{prefix}audio_out_len"] = model.decode(
            tokens=found[f"{prefix}tokens"], tokens_len=frames
        )
        if not prefix:
            found["tokens_len"] = frames
            found["dequantized"] = model.dequantize(tokens=found["tokens"], tokens_len=frames)
    generator = torch.Generator().manual_seed(seed)
    shape, frames = (1, found["encoded"].shape[1]), torch.tensor([64])
    found["fsq_in"] = 2 * torch.randn(*shape, 64, generator=generator)
    found["fsq_indices"] = model.quantize(encoded=found["fsq_in"], encoded_len=frames)
    found["fsq_dequantized"] = model.dequantize(tokens=found["fsq_indices"], tokens_len=frames)
    found["dec_in"] = torch.randn(*shape, 9, generator=generator)
    found["dec_out"], _ = model.decode_audio(inputs=found["dec_in"], input_len=torch.tensor([9]))
    return {name: tensor.contiguous() for name, tensor in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nemo", type=Path, help="folder with an installed NeMo")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speech = flexicodec.read_audio(Path(flexicodec.__file__).parent / "assets" / "example.flac", sample_rate=22_050)
    audio = torch.as_tensor(speech[:, START : START + SAMPLES])
    lengths = torch.tensor([SAMPLES, SHORTER])
    batch = torch.cat([audio, audio.flip(1)]) * (torch.arange(SAMPLES) < lengths[:, None])

    for name, config in CASES.items():
        model, settings = peer.build(arguments.nemo, config)
        for seed in range(1000):
            randomise(model, audio, lengths[:1], seed)
            found = record(model, audio, batch, lengths, seed)
            valid = found["batch_encoded"][1, :, : int(found["batch_encoded_len"][1])]
            parts = (found["encoded"][0], found["batch_encoded"][0], valid, found["fsq_in"][0])
            if min(margin(config, part) for part in parts) > MARGIN:
                break
        else:
            raise RuntimeError(f"no seed keeps {name} {MARGIN} away from rounding boundaries")
        folder = GOLDENS / name
        folder.mkdir(exist_ok=True)
        weights = {key: value.contiguous() for key, value in model.state_dict().items()}
        for tensors, file in ((weights, "weights.safetensors"), (found, "io.safetensors")):
            save_file(tensors, folder / file)
            (folder / file).chmod(0o644)  # safetensors makes its files readable for the owner only
        about = {"recorded": {"nemo_toolkit": "3.0.0", "torch": torch.__version__, "threads": 1, "seed": seed}}
        (folder / "config.json").write_text(json.dumps(about | settings, indent=1) + "\n")
        size = sum(path.stat().st_size for path in folder.iterdir())
        kinds, out = found["tokens"].unique().numel(), found["audio_out"]
        print(
            f"{name}: seed {seed}, {size} bytes, {kinds} different tokens, output {out.std():.2f} at {out.mean():.2f}"
        )


if __name__ == "__main__":
    main()
