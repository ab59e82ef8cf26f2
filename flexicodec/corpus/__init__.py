"""Speech corpora on disk: manifests, folder layouts and lhotse cuts that become manifests, and reading their audio."""

from flexicodec.corpus.audio_reading import read_utterance
from flexicodec.corpus.layouts.scan import ScanResult, scan
from flexicodec.corpus.lists.read import read_field, read_list, read_manifest
from flexicodec.corpus.manifest import Filter, Utterance, check_ids, write_manifest

__all__ = [
    "Filter",
    "ScanResult",
    "Utterance",
    "check_ids",
    "read_field",
    "read_list",
    "read_manifest",
    "read_utterance",
    "scan",
    "write_manifest",
]
