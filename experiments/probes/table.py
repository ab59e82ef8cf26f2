"""Compare the errors of ASR probes of several representations on the clips of one corpus.

python experiments/probes/table.py OUT/clips.jsonl --corpus librispeech_test_clean --output table.json

Each representation is compared with the previous one, on the same clips. With several files, one with a policy in its
name ("6.25 Hz uniform") is compared with the same rate without a policy ("6.25 Hz").
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from flexicodec.io_utils import replacing
from flexicodec.statistics import bootstrap


def namesake(name: str) -> str | None:
    """Return the name of the same rate without a policy."""
    rate, unit, *policy = f"{name} ".split(" ")
    return f"{rate} {unit}" if unit == "Hz" and any(policy) else None


def main() -> None:
    """Read rows, print a line for each rate and each pair of consecutive rates, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", help="clips.jsonl of `flexicodec probe asr`")
    parser.add_argument("--corpus", required=True, help="second part of the clips' ids")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rows = [json.loads(line) for path in arguments.clips for line in path.read_text().splitlines()]
    by: dict[str, dict[str, dict]] = defaultdict(dict)
    for row in rows:
        if row["id"].split("/")[1] == arguments.corpus:
            by[row["representation"]][row["id"]] = row
    names, ids = list(by), list(next(iter(by.values())))
    speakers = [by[names[0]][i]["speaker"] for i in ids]
    lengths = np.array([by[names[0]][i]["characters"]["length"] for i in ids])
    errors = {name: np.array([by[name][i]["characters"]["errors"] for i in ids]) for name in names}

    found = {}
    for name in names:
        found[name] = bootstrap(lambda e, n: e.sum() / n.sum(), errors[name], lengths, clusters=speakers)
    dynamic = [name for name in names if namesake(name) is None]
    pairs = list(zip(dynamic[1:], dynamic, strict=False))
    pairs += [(name, other) for name in names if (other := namesake(name)) in names]
    for one, other in pairs:
        found[f"{one} - {other}"] = bootstrap(
            lambda a, b, n: (a - b).sum() / n.sum(), errors[one], errors[other], lengths, clusters=speakers
        )
    for name, interval in found.items():
        print(f"{name:<24} {interval}  ({interval.items} clips, {interval.clusters} speakers)")
    with replacing(arguments.output) as part:
        part.write_text(json.dumps({name: asdict(each) for name, each in found.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
