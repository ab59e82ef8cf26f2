"""Probes: what a small network can read off the vectors of a frozen codec, the text or a label of the clip."""

from flexicodec.evaluation.probes.asr import ASRProbeConfig, ASRProbeResult, FitConfig, probe_asr
from flexicodec.evaluation.probes.classification import (
    ClassifyProbeConfig,
    ClassifyProbeResult,
    choose_clips,
    probe_classify,
    split_clips,
)
from flexicodec.evaluation.probes.features import ClipFeatures, Representation, extract, sample_hours
from flexicodec.evaluation.probes.results import write_results

__all__ = [
    "ASRProbeConfig",
    "ASRProbeResult",
    "ClassifyProbeConfig",
    "ClassifyProbeResult",
    "ClipFeatures",
    "FitConfig",
    "Representation",
    "choose_clips",
    "extract",
    "probe_asr",
    "probe_classify",
    "sample_hours",
    "split_clips",
    "write_results",
]
