"""Record a golden case of NeMo's H/ASP for tests/data: names and shapes of its tensors, and a speaker embedding.

    python experiments/nanocodec/golden_speaker.py DIR        # DIR: see peer.py

Neither weights nor audio are stored: a formula on their names gives both.
"""

import argparse
import importlib
import json
from math import sqrt
from pathlib import Path

import peer
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "tests" / "data" / "goldens" / "speaker_encoder.json"
SAMPLES = 8000
CONSTANTS = "torch_spec."


def wave(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return sin(12.9898 i + c), i = 1, 2, ... in row-major order, c the sum of the name's bytes modulo 97."""
    count = torch.Size(shape).numel()
    phase = sum(name.encode()) % 97
    return torch.sin(12.9898 * torch.arange(1, count + 1, dtype=torch.float64) + phase).view(shape)


def value(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return values for a tensor: scaled to preserve the scale of a signal, and positive for variances."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return 1 + 0.5 * wave(name, shape)
    scale = sqrt(3 / torch.Size(shape[1:]).numel()) if len(shape) > 1 else 0.1
    return scale * wave(name, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nemo", type=Path, help="folder with an installed NeMo")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peer.codec_class(arguments.nemo)
    encoder = importlib.import_module(peer.MODULES).ResNetSpeakerEncoder().eval()
    shapes = {name: list(tensor.shape) for name, tensor in encoder.state_dict().items() if CONSTANTS not in name}
    encoder.load_state_dict({name: value(name, tuple(shape)) for name, shape in shapes.items()}, strict=False)
    with torch.no_grad():
        signal = 43758.5453 * wave("audio", (1, SAMPLES))  # its fractional part is noise-like
        embedding = encoder((signal - signal.floor() - 0.5).float())[0]
    about = {"recorded": {"nemo_toolkit": "3.0.0", "class": "ResNetSpeakerEncoder", "torch": torch.__version__}}
    found = {"shapes": shapes, "samples": SAMPLES, "embedding": [float(f"{each:.8g}") for each in embedding.tolist()]}
    GOLDEN.write_text(json.dumps(about | found) + "\n")
    print(f"{len(shapes)} tensors, embedding {embedding.mean():.3f} +- {embedding.std():.3f}")


if __name__ == "__main__":
    main()
