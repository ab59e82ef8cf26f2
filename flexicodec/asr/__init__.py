"""A small offline speech recogniser (SAN-M encoder, CTC): transcripts, alignments, and a frozen encoder for codecs."""

from flexicodec.asr.checkpoint import encoder_state, is_recognizer
from flexicodec.asr.config import RecognizerConfig
from flexicodec.asr.model import Aligned, Recognizer
from flexicodec.asr.text import normalise
from flexicodec.asr.vocabulary import (
    CharacterConfig,
    PhoneConfig,
    SentencePieceConfig,
    Vocabulary,
    VocabularyConfig,
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
