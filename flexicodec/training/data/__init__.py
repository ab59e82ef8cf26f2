"""Speech for training: manifests (`flexicodec.corpus`), caches and shards in, batches out.

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
from flexicodec.training.data.write import WrittenShards, write_shards

__all__ = [
    "AudioStore",
    "Batch",
    "WrittenShards",
    "read_manifests",
    "training_batches",
    "utterance_batches",
    "validation_clips",
    "write_shards",
]
