"""Speech for training: manifests, caches and shards in, batches out.

`training_batches` is what a trainer needs. All that is drawn is a function of the seed and the number of the item, so
that a run can be repeated, resumed and spread over processes exactly.
"""

from flexicodec.training.data.batches import (
    Batch,
    read_manifests,
    training_batches,
    utterance_batches,
    validation_clips,
)
from flexicodec.training.data.cache import AudioStore
from flexicodec.training.data.folders import Listing, scan
from flexicodec.training.data.manifest import Filter, Utterance, read_manifest, write_manifest
from flexicodec.training.data.reading import read_utterance
from flexicodec.training.data.write import WrittenShards, write_shards

__all__ = [
    "AudioStore",
    "Batch",
    "Filter",
    "Listing",
    "Utterance",
    "WrittenShards",
    "read_manifest",
    "read_manifests",
    "read_utterance",
    "scan",
    "training_batches",
    "utterance_batches",
    "validation_clips",
    "write_manifest",
    "write_shards",
]
