"""Offline speech recognisers: our own (SAN-M encoder, CTC), whose encoder codecs use frozen, and Moonshine Tiny."""

from flexicodec.asr.checkpoint import encoder_state, is_recognizer
from flexicodec.asr.config import RecognizerConfig
from flexicodec.asr.model import Aligned, Recognizer
from flexicodec.asr.moonshine import Moonshine
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
    "Moonshine",
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
