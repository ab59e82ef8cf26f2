"""Compare the codes of the fast path with those of the plain path: whole clips, with PyTorch's own operators.

The same clips as in the timings, on one thread and on two. Prints a JSON object: differing decisions, and their total.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from systems import CODEBOOKS, FRAME_RATE
from worker import CASES, batch

import flexicodec
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.nn import onednn
from flexicodec.nn.dac import ConvStack

NAMES = ("durations", "semantic", "acoustic")


@contextmanager
def plainly() -> Iterator[None]:
    """Disable chunks, oneDNN's products, cached weights and the faster sines."""

    def at_once(self, x, lengths=None, pad_at_item_ends=True, chunk_frames=None):
        return self(x, lengths, pad_at_item_ends)

    with (
        mock.patch.object(onednn, "_supported_dtypes", return_value=()),
        mock.patch.object(ConvStack, "chunked", at_once),
    ):
        yield


def differing(one: flexicodec.Tokens, other: flexicodec.Tokens) -> dict[str, list[int]]:
    """Count differing decisions and their total; codes only at equal boundaries."""
    if not torch.equal(one.durations, other.durations):
        return {"durations": [int((one.durations != other.durations).sum()), one.durations.numel()]}
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in NAMES}
    return {name: [int((a != b).sum()), a.numel()] for name, (a, b) in pairs.items()}


def main() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        codecs = {"ours": FlexiCodec().eval(), "mini": flexicodec.load("flexicodec-mini")}
    found: dict = {}
    for name, codec in codecs.items():
        for case in ("10 s", "30 s", "4x10 s"):
            audio, lengths = batch(CASES[case], codec.sample_rate, "cpu")
            choice = {"frame_rate": FRAME_RATE, "num_codebooks": CODEBOOKS}
            with plainly():
                plain = codec.encode(audio, lengths, **choice)
            for threads in (1, 2):
                torch.set_num_threads(threads)
                row = differing(codec.encode(audio, lengths, **choice), plain)
                found[f"{name}, {case}, {threads} thread{'s' * (threads > 1)}"] = row
    print(json.dumps(found))


if __name__ == "__main__":
    main()
