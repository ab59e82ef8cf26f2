"""Results of probes on disk: numbers and settings in one JSON file, what was made of every test clip in JSON lines."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import flexicodec
from flexicodec.config import to_dict
from flexicodec.evaluation.probes.asr import ASRProbeConfig, ASRProbeResult
from flexicodec.evaluation.probes.classify import ClassifyProbeConfig, ClassifyProbeResult
from flexicodec.io_utils import replacing
from flexicodec.models.codec import Codec

Result = ASRProbeResult | ClassifyProbeResult
ROWS = ("transcripts", "guesses")  # fields with an entry for each test clip


def write_results(
    folder: str | Path, codec: Codec, results: Sequence[Result], config: ASRProbeConfig | ClassifyProbeConfig
) -> Path:
    """Write `results.json` and `clips.jsonl` to a folder, made if missing, and return it.

    Numbers without a value (an interval where there is one speaker) are null.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = [asdict(result) for result in results]
    clips = [
        {"representation": str(result.representation), **_of(result), **row}
        for result, each in zip(results, whole, strict=True)
        for name in ROWS
        for row in each.pop(name, ())
    ]
    content = {
        "flexicodec_lab_version": flexicodec.__version__,
        "model": getattr(codec, "name", None),
        "fingerprint": codec.fingerprint,
        "config": to_dict(config),
        "results": [{"name": str(r.representation), **each} for r, each in zip(results, whole, strict=True)],
    }
    with replacing(folder / "clips.jsonl") as rows, replacing(folder / "results.json") as numbers:
        rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in clips), encoding="utf-8")
        numbers.write_text(json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder


def _of(result: Result) -> dict[str, str]:
    return {"pooling": result.pooling} if isinstance(result, ClassifyProbeResult) else {}


def _without_nan(value: Any) -> Any:
    """Put None where a number is NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
