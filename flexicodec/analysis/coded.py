"""A clip as analyses of timing see it: which frames its tokens cover, on what grid, and what it sounds like."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from flexicodec.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Coded:
    """The tokens of one clip in time.

    Attributes:
        durations: Frames of each token, all above 0.
        frame_seconds: Seconds of a frame.
        seconds: Duration of the clip; the last frame may reach beyond it, or end before.
        max_duration: Most frames that a token may have; None for no cap.
        audio: The clip, for what looks at the sound; None where nothing does.
        sample_rate: Of `audio`, Hz.
    """

    durations: Int[np.ndarray, " tokens"]
    frame_seconds: float
    seconds: float
    max_duration: int | None = 8
    audio: Float[np.ndarray, " samples"] | None = None
    sample_rate: int = 16_000

    def __post_init__(self) -> None:
        durations = np.asarray(self.durations)
        if durations.ndim != 1 or not len(durations) or durations.dtype.kind not in "iu" or durations.min() < 1:
            raise ValueError(
                f"durations are {durations.dtype} of shape {durations.shape}; expected one token or more, each a whole "
                "number of frames above 0 (was padding left in, or are they in seconds?)"
            )
        if self.max_duration is not None and durations.max() > self.max_duration:
            raise ValueError(f"a token has {durations.max()} frames, more than max_duration={self.max_duration}")
        object.__setattr__(self, "durations", durations.astype(np.int64))
        if not (self.frame_seconds > 0 and self.seconds > 0):
            raise ValueError(
                f"a frame lasts {self.frame_seconds} s and the clip {self.seconds} s; expected seconds above 0"
            )
        if abs(self.num_frames * self.frame_seconds - self.seconds) > max(2 * self.frame_seconds, 0.1):
            raise ValueError(
                f"durations sum to {self.num_frames} frames, {self.num_frames * self.frame_seconds:g} s, but the clip "
                f"lasts {self.seconds:g} s; are they of another clip?"
            )

    @classmethod
    def of(cls, tokens: Tokens, audio: Float[np.ndarray, " samples"] | None = None) -> "Coded":
        """Take the tokens of one clip, with its audio at the codec's rate where the sound matters.

        Raises:
            ValueError: More than one clip, or audio of another duration.
        """
        if len(tokens) != 1:
            raise ValueError(f"tokens are of {len(tokens)} clips; expected those of one: tokens[i]")
        form, seconds = tokens.format, float(tokens.seconds[0])
        if audio is not None and abs(len(audio) / form.sample_rate - seconds) > 0.5 / form.sample_rate:
            raise ValueError(
                f"audio lasts {len(audio) / form.sample_rate:g} s at {form.sample_rate} Hz, the tokens {seconds:g} s; "
                "is it at another rate, or of another clip?"
            )
        durations = tokens.durations[0, : int(tokens.token_lengths[0])].cpu().numpy()
        return cls(durations, form.frame_size / form.sample_rate, seconds, form.max_duration, audio, form.sample_rate)

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return int(self.durations.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of the clip."""
        return len(self.durations)

    def with_durations(self, durations: Int[np.ndarray, " tokens"]) -> "Coded":
        """Return the same clip with other tokens.

        Raises:
            ValueError: They do not cover the clip's frames.
        """
        if int(np.sum(durations)) != self.num_frames:
            raise ValueError(f"durations sum to {int(np.sum(durations))} frames, but the clip has {self.num_frames}")
        return replace(self, durations=durations)

    def boundaries(self, offset: float = 0.0) -> Float[np.ndarray, " boundaries"]:
        """Return the seconds at which tokens start, but for the first, moved by `offset`; inside the clip only."""
        times = np.cumsum(self.durations)[:-1] * self.frame_seconds + offset
        return times[(times > 0) & (times < self.seconds)]

    def middles(self, offset: float = 0.0) -> Float[np.ndarray, " tokens"]:
        """Return the seconds to the middle of each token; the last one ends with the clip, if not before."""
        ends = np.minimum(np.cumsum(self.durations) * self.frame_seconds, self.seconds)
        starts = np.minimum(np.cumsum(self.durations) - self.durations, self.num_frames) * self.frame_seconds
        return (np.minimum(starts, self.seconds) + ends) / 2 + offset
