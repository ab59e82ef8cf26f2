"""Compare settings of similar bitrate, clip by clip, from the rows of `flexicodec evaluate`.

python experiments/evaluation/pairs.py RESULTS --output experiments/evaluation/results/pairs.json
"""

import argparse
import json
from pathlib import Path

from flexicodec.evaluation.report import markdown_table
from flexicodec.evaluation.results_store import read_rows
from flexicodec.evaluation.summary import MetricTable, Score
from flexicodec.io_utils import replacing

PAIRS = (  # frame rate and codebooks of both; the first costs less
    ((12.5, 0), (4, 7)),
    ((12.5, 0), (6.25, 7)),
    ((12.5, 7), (6.25, 24)),
    ((8.33, 7), (6.25, 24)),
    ((6.25, 7), (6.25, 24)),
    ((12.5, 7), (12.5, 24)),
)
METRICS = {"bitrate_kbps": 3, "stoi": 3, "pesq_wb": 3, "mel_distance": 3, "mcd_db": 2, "cer.ctc:recognizer-mini": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    table = MetricTable(read_rows(arguments.results))
    found = []
    for pair in PAIRS:
        names = [f"{rate:g} Hz, {count} codebooks" for rate, count in pair]
        first, second = (("flexicodec-mini", name) for name in names)
        scores = {metric: table.difference(first, second, metric) for metric in METRICS}
        found.append({"first": names[0], "second": names[1], **{name: ends(each) for name, each in scores.items()}})
    with replacing(arguments.output) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    shown = [[each["first"], each["second"], *(cell(each[name], name) for name in METRICS)] for each in found]
    print(markdown_table(["first", "second", *METRICS], shown))


def ends(score: Score) -> dict[str, float]:
    """Return the difference with its interval over speakers."""
    return {"difference": score.value, "low": score.speakers.low, "high": score.speakers.high}


def cell(score: dict[str, float], metric: str) -> str:
    """Format a difference with its interval."""
    value, low, high = (f"{score[name]:+.{METRICS[metric]}f}" for name in ("difference", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main()
