"""Seconds from loading to the first token: the released architecture in both layouts, and the mini.

Imports are done and files are in the page cache. Prints a JSON object.
"""

import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec

SCHEMA = Path(__file__).parents[2] / "tests" / "data" / "state_dict_12hz_v1.json"


def seconds_to_tokens(model: str | Path) -> dict[str, float]:
    """Load a model and encode a second of speech; returns the times of the second run of two."""
    audio = torch.sin(torch.arange(16_000) / 20)
    for _ in range(2):
        started = time.monotonic()
        codec = flexicodec.load(model)
        opened = time.monotonic()
        codec.encode(audio, frame_rate=6.25)
        done = time.monotonic()
    return {"open": round(opened - started, 2), "first_token": round(done - started, 2)}


def random_release(folder: Path) -> None:
    """Write random half-precision weights in the released layout, SenseVoice's own included, and their yaml."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, held in json.loads(SCHEMA.read_text()).items():  # a shape, or one shape for several layers
        shape, layers = (held["shape"], held["layers"]) if isinstance(held, dict) else (held, 1)
        for layer in range(layers):
            state[name.replace("*", str(layer))] = 0.02 * torch.randn(shape, generator=generator)
    state["semantic_mean"], state["semantic_std"] = torch.zeros(1), torch.ones(1)
    save_file({key: value.half() for key, value in state.items()}, folder / "12hz_v1_half.safetensors")
    settings = "use_similarity_alignment: true, use_query_token_aggregator: true, use_bottleneck_transformer: true"
    config = f"model: {{{settings}, transformer_num_layers: 32, transformer_num_heads: 8}}\n"
    (folder / "12hz_v1_half_config.yaml").write_text(config)


def main() -> None:
    torch.set_num_threads(1)
    found = {"mini": seconds_to_tokens("flexicodec-mini")}
    with tempfile.TemporaryDirectory() as folder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            FlexiCodec().save_pretrained(folder, dtype=torch.float16)
        found["full, our layout, half precision"] = seconds_to_tokens(folder)
    with tempfile.TemporaryDirectory() as folder:
        random_release(Path(folder))
        found["full, released layout"] = seconds_to_tokens(folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
