"""Phones, syllables and words in time: read, written, and put into classes. Times are seconds, everywhere."""

from flexicodec.analysis.segments.files import read_alignment, read_ctm, write_ctm, write_textgrid
from flexicodec.analysis.segments.labels import CLASSES, fold, is_silence, is_unknown, phone_class
from flexicodec.analysis.segments.phones import COUNTINGS, count_as, merge_closures, spoken
from flexicodec.analysis.segments.segment import (
    Alignment,
    Segment,
    edges,
    in_speech,
    label_at,
    speech_before,
    speech_seconds,
)
from flexicodec.analysis.segments.syllables import syllables

__all__ = [
    "CLASSES",
    "COUNTINGS",
    "Alignment",
    "Segment",
    "count_as",
    "edges",
    "fold",
    "in_speech",
    "is_silence",
    "is_unknown",
    "label_at",
    "merge_closures",
    "phone_class",
    "read_alignment",
    "read_ctm",
    "speech_before",
    "speech_seconds",
    "spoken",
    "syllables",
    "write_ctm",
    "write_textgrid",
]
