"""Speech for training: manifests (`flexicodec.corpus`), caches and tar shards in, batches out.

All random choices are functions of the seed and the example's number, so that a run can be repeated, resumed and
spread over processes exactly.
"""

from flexicodec.training.data.batches import (
    Batch,
    read_manifests,
    training_batches,
    utterance_batches,
    validation_clips,
)
from flexicodec.training.data.clip_cache import AudioCache, FeatureCache
from flexicodec.training.data.shards import WrittenShards, write_shards

__all__ = [
    "AudioCache",
    "Batch",
    "FeatureCache",
    "WrittenShards",
    "read_manifests",
    "training_batches",
    "utterance_batches",
    "validation_clips",
    "write_shards",
]
