"""Measure what an entropy coder would save on the tokens of the model that ships; see README.md.

flexicodec tokenize train.jsonl -o /tmp/train --frame-rate 12.5 8.33 6.25
flexicodec tokenize eval.jsonl -o /tmp/eval --frame-rate 12.5 8.33 6.25
python experiments/entropy/run.py /tmp/train /tmp/eval -o experiments/entropy/results.json
"""

import argparse
import json
from pathlib import Path

import constriction
import numpy as np

import flexicodec
from flexicodec.corpus import TokenDataset, tokens
from flexicodec.evaluation.metrics.bitrate import TokenEntropyModel

PRECISION_BITS = 24  # of constriction's fixed-point probabilities


def code_lengths(train, clips, levels) -> dict[str, float]:
    """Bits per second of each stream on clips of other speakers: fields, the best count model, the way it codes."""
    model = TokenEntropyModel(train, levels)
    seconds = sum(float(clip.seconds[0]) for clip in clips)
    count = sum(int(clip.token_lengths[0]) for clip in clips)
    sums: dict[str, float] = {}
    for clip in clips:
        for stream, bits in model.bits(clip).items():
            name = "acoustic" if stream.startswith("acoustic") else stream
            sums[name] = sums.get(name, 0.0) + bits
    form = clips[0].format
    widths = {"durations": form.duration_bits, "semantic": form.semantic_bits}
    widths["acoustic"] = clips[0].num_codebooks * form.acoustic_bits
    table = {}
    for name, width in widths.items():
        table[name] = {"fields": count * width / seconds, "coded": sums[name] / seconds}
        table[name]["saved"] = 1 - table[name]["coded"] / table[name]["fields"]
    for label, names in (("all", tuple(widths)), ("semantic and durations", ("durations", "semantic"))):
        fields = sum(table[name]["fields"] for name in names)
        coded = sum(table[name]["coded"] for name in names)
        table[label] = {"fields": fields, "coded": coded, "saved": 1 - coded / fields}
    table["seconds"] = seconds
    table["ways"] = {name: way for name, way in model.ways.items() if not name.startswith("acoustic")}
    return table


def check_durations(train, clips) -> dict[str, float]:
    """Code durations by a static table with constriction, decode them, and compare the length with -log2 q."""
    size = clips[0].format.max_duration
    counts = np.ones(size)
    for clip in train:
        counts += np.bincount(clip.durations[0].numpy() - 1, minlength=size)
    table = counts / counts.sum()
    symbols = np.concatenate([clip.durations[0].numpy() for clip in clips]).astype(np.int32) - 1
    model = constriction.stream.model.Categorical(table, perfect=False)
    coder = constriction.stream.queue.RangeEncoder()
    coder.encode(symbols, model)
    compressed = coder.get_compressed()
    decoded = constriction.stream.queue.RangeDecoder(compressed).decode(model, len(symbols))
    assert np.array_equal(decoded, symbols)
    expected = float(-np.log2(table[symbols]).sum())
    coded = 32 * len(compressed)
    assert coded < expected * 1.001 + 64, "a range coder is within two words of the code length"
    seconds = sum(float(clip.seconds[0]) for clip in clips)
    return {"bits per second by -log2 q": expected / seconds, "by constriction": coded / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path)
    parser.add_argument("eval", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    levels = flexicodec.load("flexicodec-mini", parts="semantic").semantic_quantizer.config.levels
    found = {"fingerprint": TokenDataset.open(args.train).format.fingerprint}
    for choice in TokenDataset.open(args.train).choices:
        train = list(tokens(args.train, choice.name))
        clips = list(tokens(args.eval, choice.name))
        found[choice.name] = code_lengths(train, clips, levels) | {"static durations": check_durations(train, clips)}
        print(json.dumps({choice.name: found[choice.name]}, indent=1), flush=True)
    args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
