"""Measure how long a moved slider of the demo page takes: 10 s of speech, rates in turn, median of 20 moves."""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

import flexicodec
from flexicodec.config import from_dict, load_yaml
from flexicodec.demo.comparison import Comparer
from flexicodec.demo.page import Handlers

SECONDS = 10
MOVES = 20
PARTS = ("tokenize", "decode")


def main() -> None:
    """Print medians in wall and CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--config", help="a training config, for its model with random weights")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    codec = random_codec(args.config) if args.config else flexicodec.load(args.model)
    comparer = Comparer(codec)
    seconds: dict[str, list[float]] = defaultdict(list)
    for name in PARTS:
        setattr(codec, name, timed(getattr(codec, name), seconds[name]))
    comparer._stoi = timed(comparer._stoi, seconds["STOI"])

    with tempfile.TemporaryDirectory() as folder:
        handlers = Handlers(comparer, Path(folder))
        path = Path(folder) / "speech.wav"
        audio = flexicodec.read_audio(flexicodec.EXAMPLE, codec.sample_rate)
        audio = audio.repeat(1, 2)[:, : SECONDS * codec.sample_rate]
        flexicodec.write_audio(path, audio, codec.sample_rate)
        own = comparer.own_policy
        session, message, *_ = handlers.open_clip(str(path), 6.25, codec.num_codebooks, own)
        assert message == "", message
        move = timed(handlers.move, seconds["a move"])
        lowest, highest = comparer.rates
        for i in range(MOVES + 1):
            if i == 1:
                for each in seconds.values():
                    each.clear()  # the first calls warm up
            message, *_ = move(session, lowest + (highest - lowest) * i / MOVES, codec.num_codebooks, own)
            assert message == "", message
    print(f"{SECONDS} s of speech, {args.threads} threads, median of {MOVES} moves, policy {own}")
    for name, values in seconds.items():
        wall = statistics.median(each[0] for each in values)
        cpu = statistics.median(each[1] for each in values)
        print(f"{name:10} {wall:.3f} s, {cpu:.3f} s of CPU")


def timed(function, seconds):
    """Wrap a function so that wall and CPU seconds of its calls are kept."""

    def call(*args, **kwargs):
        before = time.perf_counter(), time.process_time()
        result = function(*args, **kwargs)
        seconds.append((time.perf_counter() - before[0], time.process_time() - before[1]))
        return result

    return call


def random_codec(config):
    """Build the model of a training config with random weights: its speed is that of a trained one."""
    return flexicodec.FlexiCodec.random(from_dict(flexicodec.FlexiCodecConfig, load_yaml(config)["model"]))


if __name__ == "__main__":
    main()
