"""What a recogniser is made of."""

from dataclasses import dataclass, field

from flexicodec.asr.vocabulary import CharacterConfig, VocabularyConfig
from flexicodec.encoders.base import SanmConfig


@dataclass(frozen=True)
class RecognizerConfig:
    """A whole recogniser.

    Attributes:
        encoder: What listens.
        vocabulary: What is written.
        outputs_per_frame: CTC outputs per 60 ms frame: 2 keep up with fast speech in characters or phones.
    """

    encoder: SanmConfig = field(default_factory=SanmConfig)
    vocabulary: VocabularyConfig = field(default_factory=CharacterConfig)
    outputs_per_frame: int = 2

    def __post_init__(self) -> None:
        if self.outputs_per_frame < 1:
            raise ValueError(f"outputs_per_frame is {self.outputs_per_frame}, expected at least 1")
