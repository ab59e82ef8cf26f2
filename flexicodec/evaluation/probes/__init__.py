"""Probes: how much of what is said, or of who says it, a small network can read off a frozen codec's vectors."""

from flexicodec.evaluation.probes.asr import ASRProbeConfig, ASRProbeResult, probe_asr
from flexicodec.evaluation.probes.classify import ClassifyProbeConfig, ClassifyProbeResult, probe_classify
from flexicodec.evaluation.probes.features import ClipFeatures, Representation, extract
from flexicodec.evaluation.probes.fitting import Fit, FitConfig
from flexicodec.evaluation.probes.results import write_results
from flexicodec.evaluation.probes.splits import choose_clips, draw_hours, split_clips

__all__ = [
    "ASRProbeConfig",
    "ASRProbeResult",
    "ClassifyProbeConfig",
    "ClassifyProbeResult",
    "ClipFeatures",
    "Fit",
    "FitConfig",
    "Representation",
    "choose_clips",
    "draw_hours",
    "extract",
    "probe_asr",
    "probe_classify",
    "split_clips",
    "write_results",
]
