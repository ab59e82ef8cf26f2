"""A small offline speech recogniser (SAN-M and CTC): its transcripts, its alignments, and its blocks for a codec."""

from flexicodec.models.recognizer.config import RecognizerConfig
from flexicodec.models.recognizer.folder import encoder_state, is_recognizer
from flexicodec.models.recognizer.model import Aligned, Recognizer
from flexicodec.models.recognizer.vocabulary import (
    CharacterConfig,
    PhoneConfig,
    SentencePieceConfig,
    Vocabulary,
    VocabularyConfig,
    normalise,
    open_vocabulary,
    train_pieces,
)

__all__ = [
    "Aligned",
    "CharacterConfig",
    "PhoneConfig",
    "Recognizer",
    "RecognizerConfig",
    "SentencePieceConfig",
    "Vocabulary",
    "VocabularyConfig",
    "encoder_state",
    "is_recognizer",
    "normalise",
    "open_vocabulary",
    "train_pieces",
]
