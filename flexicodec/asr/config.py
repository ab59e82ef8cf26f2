"""Config of a recogniser."""

from dataclasses import dataclass, field

from flexicodec.asr.vocabulary import CharacterConfig, VocabularyConfig
from flexicodec.encoders.base import SanmConfig


@dataclass(frozen=True)
class RecognizerConfig:
    """Encoder, vocabulary and output rate of a recogniser."""

    encoder: SanmConfig = field(default_factory=SanmConfig)
    vocabulary: VocabularyConfig = field(default_factory=CharacterConfig)
    outputs_per_frame: int = 2  # CTC outputs per 60 ms frame; 2 suffice for fast speech in characters or phones

    def __post_init__(self) -> None:
        if self.outputs_per_frame < 1:
            raise ValueError(f"outputs_per_frame is {self.outputs_per_frame}, expected at least 1")
