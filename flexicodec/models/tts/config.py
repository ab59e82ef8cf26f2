"""Configs of the three networks of FlexiCodec-TTS; the defaults are the released checkpoints' values."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Activation = Literal["relu", "silu"]
DurationLoss = Literal["focal", "cross_entropy", "weighted", "label_smoothing"]
Schedule = Literal["cos", "linear"]


def _check_positive(config: object, *names: str) -> None:
    """Refuse sizes below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")


# --------------------------------------------------------------------------------------------------- text to tokens


@dataclass(frozen=True)
class CausalStackConfig:
    """A causal transformer with relative positions.

    Attributes:
        num_layers: Number of layers.
        dim: Width of the residual stream.
        num_heads: Attention heads; they divide `dim`.
        feedforward_dim: Hidden width of the feed-forward networks.
        activation: Of the feed-forward networks.
        dropout: Of the input, of both halves of a layer and inside the feed-forward networks, in training.
    """

    num_layers: int
    dim: int
    num_heads: int
    feedforward_dim: int
    activation: Activation
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_positive(self, "num_layers", "dim", "num_heads", "feedforward_dim")
        _check_choice("activation", self.activation, get_args(Activation))
        if self.dim % self.num_heads or self.dim % 2:
            raise ValueError(f"dim {self.dim} must be even and split into {self.num_heads} heads of equal size")


@dataclass(frozen=True)
class ARLossConfig:
    """Losses of the autoregressive model.

    Attributes:
        label_smoothing: Of the token loss.
        per_token: Divide the token loss by the number of targets; False divides it by the batch size.
        duration_loss: "focal", "cross_entropy"; "weighted" multiplies logits by class weights, as upstream does;
            "label_smoothing" is a sum over tokens, as upstream's is.
        duration_smoothing: Of the loss "label_smoothing".
        focal_alpha: Factor of the focal loss.
        focal_gamma: Its exponent.
    """

    label_smoothing: float = 0.0
    per_token: bool = True
    duration_loss: DurationLoss = "focal"
    duration_smoothing: float = 0.1
    focal_alpha: float = 1.0
    focal_gamma: float = 2.0

    def __post_init__(self) -> None:
        _check_choice("duration_loss", self.duration_loss, get_args(DurationLoss))


@dataclass(frozen=True)
class ARConfig:
    """The autoregressive model.

    Attributes:
        text_encoder: Reads the text; causal like the language model.
        lm: The language model of tokens.
        text_vocabulary: Rows of the text embedding.
        codebook_size: Semantic codes of the codec; one more id stands for the end.
        thresholds: Merging thresholds that the model was trained with, its choices of rate; empty for a model without
            a rate.
        duration_classes: Classes of the duration head; a class is the duration itself, in frames.
        max_duration: Longest duration of the codec; other classes are never chosen.
        speaker_dim: Width of speaker embeddings. Their projection is in released weights and was never trained.
        max_positions: Longest sequence of text, prompt and tokens.
        loss: Losses in training.
    """

    text_encoder: CausalStackConfig = field(default_factory=lambda: CausalStackConfig(4, 1024, 8, 3584, "silu"))
    lm: CausalStackConfig = field(default_factory=lambda: CausalStackConfig(16, 1024, 8, 5376, "relu"))
    text_vocabulary: int = 51_866
    codebook_size: int = 32_768
    thresholds: tuple[float, ...] = (0.86, 0.91)
    duration_classes: int = 10
    max_duration: int = 8
    speaker_dim: int = 192
    max_positions: int = 5000
    loss: ARLossConfig = field(default_factory=ARLossConfig)

    def __post_init__(self) -> None:
        names = ("text_vocabulary", "codebook_size", "duration_classes", "max_duration", "speaker_dim")
        _check_positive(self, *names, "max_positions")
        if self.max_duration >= self.duration_classes:
            raise ValueError(
                f"max_duration {self.max_duration} has no class of its own among {self.duration_classes}, which count "
                "from 0"
            )

    @property
    def end(self) -> int:
        """Id of the end of the tokens."""
        return self.codebook_size


# ---------------------------------------------------------------------------------------------------- tokens to audio


@dataclass(frozen=True)
class FlowMatchingConfig:
    """The flow-matching decoder.

    Attributes:
        output_dim: Bands of the mel spectrogram, or channels of another target.
        dim: Width of the transformer.
        num_layers: Its layers.
        num_heads: Its heads, of even size.
        codebook_size: Semantic codes of the codec.
        frames_per_code: Target frames per codec frame; 4 x 12.5 Hz is 50 Hz.
        sigma: Noise left at the end of the path.
        schedule: Distribution of times in training: "cos" is 1 - cos(pi u / 2), "linear" is u.
        drop_probability: Share of training items without prompt and codes.
        alignment_layer: Layer, counted from 0, whose output is compared with semantic features in training (REPA).
    """

    output_dim: int = 128
    dim: int = 1024
    num_layers: int = 16
    num_heads: int = 16
    codebook_size: int = 32_768
    frames_per_code: int = 4
    sigma: float = 1e-5
    schedule: Schedule = "cos"
    drop_probability: float = 0.2
    alignment_layer: int = 6

    def __post_init__(self) -> None:
        _check_positive(self, "output_dim", "dim", "num_layers", "num_heads", "codebook_size", "frames_per_code")
        _check_choice("schedule", self.schedule, get_args(Schedule))
        if self.dim % (2 * self.num_heads):
            raise ValueError(f"dim {self.dim} does not split into {self.num_heads} heads of even size")


@dataclass(frozen=True)
class VocosConfig:
    """The vocoder.

    Attributes:
        num_mels: Bands of its input.
        dim: Width of the ConvNeXt blocks.
        hidden_dim: Width inside them.
        num_layers: Their number.
        window: Samples of a frame of the inverse STFT; even.
        hop: Samples from one frame to the next; one mel frame each.
    """

    num_mels: int = 128
    dim: int = 1024
    hidden_dim: int = 4096
    num_layers: int = 30
    window: int = 1920
    hop: int = 480

    def __post_init__(self) -> None:
        _check_positive(self, "num_mels", "dim", "hidden_dim", "num_layers", "window", "hop")
        if self.window % 2 or self.window < self.hop or (self.window - self.hop) % 2:
            raise ValueError(
                f"window {self.window} must be even, at least hop {self.hop}, and differ by an even number"
            )


@dataclass(frozen=True)
class MelConfig:
    """Normalised log-mel magnitudes, 50 per second.

    Attributes:
        sample_rate: Hz of the audio.
        window: Samples of the periodic Hann window and of the FFT.
        hop: Samples from one frame to the next.
        num_mels: Bands, on Slaney's scale, up to half the sample rate.
        mean: Subtracted from the logarithms.
        variance: Its root divides them.
    """

    sample_rate: int = 24_000
    window: int = 1920
    hop: int = 480
    num_mels: int = 128
    mean: float = -4.92
    variance: float = 8.14


RELEASED_MEL = MelConfig()
