"""CPU time of encoding and decoding ten seconds on one thread, and of loading, for the released architecture.

Random weights: speed does not depend on their values. Run it as

    python experiments/speed/run.py --output experiments/speed/results.json

The peer's figures are those of `flexicodec` 0.1.2 measured the same way (CPU time, one thread, ten seconds, eight
codebooks with the semantic one) on a machine of the same kind, not in the same run.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec

SECONDS = 10.0
PEER_RTF = {"encode": 0.171, "decode": 0.140, "load_seconds": 17.0}


def cpu_time(function, repeats: int) -> float:
    """Median CPU seconds of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return float(np.median(times[1:]))


def load_seconds(folder: str | Path) -> float:
    """Wall seconds to open a model once its files are in the page cache."""
    flexicodec.load(folder)
    started = time.monotonic()
    flexicodec.load(folder)
    return round(time.monotonic() - started, 2)


def random_release(folder: Path) -> None:
    """Write random half-precision weights in the released layout, SenseVoice's own included, and their yaml."""
    schema = json.loads((Path(__file__).parents[2] / "tests" / "data" / "state_dict_12hz_v1.json").read_text())
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, held in schema.items():  # a shape, or the shape that each of several layers has
        shape, layers = (held["shape"], held["layers"]) if isinstance(held, dict) else (held, 1)
        for layer in range(layers):
            state[name.replace("*", str(layer))] = 0.02 * torch.randn(shape, generator=generator)
    state["semantic_mean"], state["semantic_std"] = torch.zeros(1), torch.ones(1)
    save_file({key: value.half() for key, value in state.items()}, folder / "12hz_v1_half.safetensors")
    settings = "use_similarity_alignment: true, use_query_token_aggregator: true, use_bottleneck_transformer: true"
    config = f"model: {{{settings}, transformer_num_layers: 32, transformer_num_heads: 8}}\n"
    (folder / "12hz_v1_half_config.yaml").write_text(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    example = Path(flexicodec.__file__).parent / "assets" / "example.flac"
    speech = flexicodec.read_audio(example, sample_rate=16_000)[0]
    audio = torch.cat([speech, speech])[: int(SECONDS * 16_000)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codec = FlexiCodec().eval()
    codec.fingerprint  # noqa: B018 (hashed once, at first use)
    features = codec.features(audio)
    tokens = codec.tokenize(features, frame_rate=8.33, num_codebooks=7)
    lengths, frames = features.audio_lengths, features.lengths
    parts = {
        "encode": lambda: codec.encode(audio, frame_rate=8.33, num_codebooks=7),
        "decode": lambda: codec.decode(tokens),
        "semantic encoder": lambda: codec.listen(audio[None], lengths, frames),
        "acoustic encoder": lambda: no_grad(codec.hear, audio[None], lengths, frames),
        "tokenize": lambda: codec.tokenize(features, frame_rate=8.33, num_codebooks=7),
    }
    rtf = {name: round(cpu_time(call, arguments.repeats) / SECONDS, 4) for name, call in parts.items()}
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as released:
        codec.save_pretrained(ours, dtype=torch.float16)
        random_release(Path(released))
        loading = {"ours": load_seconds(ours), "released layout": load_seconds(released)}
    result = {
        "rtf": rtf,
        "load_seconds": loading,
        "peer_recorded": PEER_RTF,
        "faster_than_recorded": {name: round(PEER_RTF[name] / rtf[name], 2) for name in ("encode", "decode")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, 1 thread",
    }
    print(json.dumps(result, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def no_grad(function, *arguments):
    """Call without gradients, as the public methods do."""
    with torch.no_grad():
        return function(*arguments)


if __name__ == "__main__":
    main()
