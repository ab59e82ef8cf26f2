"""Speech corpora on disk: manifests, folder layouts and lhotse cuts that become manifests, reading their audio, and
reading folders of tokens.
"""

from flexicodec.corpus.audio_reading import read_utterance
from flexicodec.corpus.layouts.scan import ScanResult, scan
from flexicodec.corpus.lists.read import read_field, read_list, read_manifest
from flexicodec.corpus.manifest import Filter, Utterance, check_ids, write_manifest
from flexicodec.corpus.token_dataset import TokenDataset, tokens, tokens_of

__all__ = [
    "Filter",
    "ScanResult",
    "TokenDataset",
    "Utterance",
    "check_ids",
    "read_field",
    "read_list",
    "read_manifest",
    "read_utterance",
    "scan",
    "tokens",
    "tokens_of",
    "write_manifest",
]
