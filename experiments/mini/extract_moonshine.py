"""Make `flexicodec/assets/moonshine-tiny-en` from the installed wheel of moonshine-voice.

    python experiments/mini/extract_moonshine.py OUT

Linear layers stay as the wheel has them, uint8 with one scale and one zero point each; convolutions, biases and norms
are rounded to half precision. The decoder is left out. Prints the SHA-256 that `encoders/moonshine_weights.py` pins,
and how far the features of 10 s of noise move by the rounding. Needs the extra `instruments`.
"""

import argparse
import hashlib
import shutil
from importlib import metadata
from pathlib import Path

import torch

from flexicodec.encoders.base import MoonshineConfig
from flexicodec.encoders.moonshine_weights import WHEEL, packed_encoder_state
from flexicodec.weights import SCALE, WEIGHTS_NAME, load_exactly, save_tensors, unpack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output

    original = packed_encoder_state()
    packed = {}
    for name, value in original.items():
        is_rounded = value.is_floating_point() and not name.endswith(SCALE)
        packed[name] = value.half() if is_rounded else value
    output.mkdir(parents=True, exist_ok=True)
    save_tensors(packed, output / WEIGHTS_NAME)
    distribution = metadata.distribution(WHEEL.partition("==")[0])
    licence = next(file for file in distribution.files or () if file.name == "LICENSE")
    shutil.copyfile(str(distribution.locate_file(licence)), output / "LICENSE")

    content = (output / WEIGHTS_NAME).read_bytes()
    print(f"{output / WEIGHTS_NAME}: {len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
    noise = 0.05 * torch.randn(1, 160_000, generator=torch.Generator().manual_seed(0))
    features = []
    for state in (original, packed):
        encoder = MoonshineConfig().build().eval()
        load_exactly(encoder, unpack(state))
        with torch.no_grad():
            features.append(encoder(noise, torch.tensor([noise.shape[1]]))[0])
    print(f"features differ by at most {(features[0] - features[1]).abs().max():.4f}")


if __name__ == "__main__":
    main()
