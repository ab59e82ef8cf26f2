"""Results of probes on disk: numbers and settings in `results.json`, one line per test clip in `clips.jsonl`."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import flexicodec
from flexicodec.config import to_dict
from flexicodec.evaluation.probes.asr import ASRProbeConfig, ASRProbeResult
from flexicodec.evaluation.probes.classification import ClassifyProbeConfig, ClassifyProbeResult
from flexicodec.io_utils import replacing
from flexicodec.models.codec import Codec


def write_results(
    folder: str | Path,
    codec: Codec,
    results: Sequence[ASRProbeResult] | Sequence[ClassifyProbeResult],
    config: ASRProbeConfig | ClassifyProbeConfig,
) -> Path:
    """Write both files to a folder, made if missing, and return it. NaN (no interval) is written as null."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = []
    lines = []
    for result in results:
        name = str(result.representation)
        content = asdict(result)
        # What concerns single clips goes to clips.jsonl.
        for row in content.pop("transcripts" if isinstance(result, ASRProbeResult) else "guesses"):
            lines.append(json.dumps({"representation": name, **row}, ensure_ascii=False) + "\n")
        numbers.append({"name": name, **content})
    whole = {
        "flexicodec_lab_version": flexicodec.__version__,
        "model": getattr(codec, "name", None),
        "fingerprint": codec.fingerprint,
        "config": to_dict(config),
        "results": numbers,
    }
    with replacing(folder / "clips.jsonl") as clips_file, replacing(folder / "results.json") as results_file:
        clips_file.write_text("".join(lines), encoding="utf-8")
        results_file.write_text(json.dumps(_without_nan(whole), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
