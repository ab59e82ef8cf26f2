"""What a codec asks of the frozen encoder that decides what a frame means.

SAN-M (`SanmEncoder`: SenseVoice-Small, or a smaller one of our own) is taught by transcripts; `ssl` has encoders that
no transcript has taught. Anything that fits `SemanticEncoder` can take this place.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.encoders.sanm import SanmConfig, SanmEncoder

__all__ = ["SanmConfig", "SanmEncoder", "SemanticEncoder"]


@runtime_checkable
class SemanticEncoder(Protocol):
    """What a codec asks of its frozen encoder.

    `frame_rate` is in Hz, `dim` the size of a feature vector. A call takes audio [B, S] at 16 kHz and valid samples [B]
    (at least one codec frame, 1280) and returns features [B, dim, frames], zero past the valid frames, and the number
    of valid frames [B].
    """

    frame_rate: float
    dim: int

    def __call__(
        self, audio: Float[Tensor, "batch samples"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, " batch"]]: ...
