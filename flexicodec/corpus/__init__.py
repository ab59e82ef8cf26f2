"""Speech on disk: manifests that list it, folders and lhotse cuts that become manifests, and the audio they name."""

from flexicodec.corpus.folders import Listing, scan
from flexicodec.corpus.manifest import Filter, Utterance, check_ids, read_field, read_manifest, write_manifest
from flexicodec.corpus.reading import read_utterance

__all__ = [
    "Filter",
    "Listing",
    "Utterance",
    "check_ids",
    "read_field",
    "read_manifest",
    "read_utterance",
    "scan",
    "write_manifest",
]
