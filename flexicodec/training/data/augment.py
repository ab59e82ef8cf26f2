"""What is done to a clip before it is heard: a lossy codec, another level, noise; in this order.

Every draw comes from the generator passed in. Levels are those of the piece that is heard, a crop or an utterance. The
codec to be trained has to reproduce the result, noise included.
"""

import io
import math

import numpy as np
import soundfile
import torch
from jaxtyping import Float

from flexicodec.audio import WRITE_BLOCK, resample
from flexicodec.corpus.manifest import Utterance, read_manifest
from flexicodec.corpus.reading import UNREADABLE, read_utterance
from flexicodec.training.config import AugmentationConfig

Wave = Float[np.ndarray, " samples"]

# libsndfile's container and encoding, and the range its compression level (0 best, 1 smallest) is drawn from. With
# libsndfile 1.2 and mono at 16 kHz that is about 80 to 20 kbit/s of Opus, 80 to 33 of Vorbis and 64 to 26 of MP3.
CODECS = {
    "opus": ("OGG", "OPUS", (0.75, 0.95)),
    "vorbis": ("OGG", "VORBIS", (0.0, 1.0)),
    "mp3": ("MP3", "MPEG_LAYER_III", (0.0, 0.9)),
}
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
QUIETEST_DBFS = -60.0  # what is below is a pause, which `loudness_dbfs` would blow up to the level of speech
MOST_ATTEMPTS = 20


class Augmentation:
    """Change clips as the config says.

    Args:
        config: What to do.
        sample_rate: Of the clips.

    Raises:
        ValueError: A share outside [0, 1], a range upside down, an unknown codec, or noise without a manifest.
    """

    def __init__(self, config: AugmentationConfig, sample_rate: int):
        _check(config)
        self.config, self.sample_rate = config, sample_rate
        self.noise: list[Utterance] = read_manifest(config.noise_manifest) if config.noise_manifest else []
        self._noise_ends = np.cumsum([clip.duration for clip in self.noise])

    def __call__(self, audio: Wave, random: np.random.Generator) -> tuple[Wave, int]:
        """Return the changed clip, as long as before, and how many noise clips could not be read on the way."""
        config, unreadable = self.config, 0
        if random.random() < config.codec_share:
            audio = through_codec(audio, self.sample_rate, str(random.choice(config.codecs)), random.random())
        if config.loudness_dbfs is not None and (level := level_dbfs(audio)) > QUIETEST_DBFS:
            audio = audio * _factor(config.loudness_dbfs - level)
        if config.gain_db != (0.0, 0.0):
            audio = audio * _factor(random.uniform(*config.gain_db))
        if random.random() < config.noise_share:
            noise, unreadable = self._noise(len(audio), random)
            audio = add_noise(audio, noise, random.uniform(*config.noise_snr_db))
        peak = float(np.abs(audio).max(initial=0.0))
        return (audio / peak if peak > 1.0 else audio).astype(np.float32, copy=False), unreadable

    def _noise(self, samples: int, random: np.random.Generator) -> tuple[Wave, int]:
        """Draw a stretch of noise, every second of it equally likely; short noise is repeated."""
        for attempt in range(MOST_ATTEMPTS):
            clip = self.noise[int(np.searchsorted(self._noise_ends, random.uniform(0, self._noise_ends[-1]), "right"))]
            spare = int(clip.duration * self.sample_rate) - samples
            first = int(random.integers(0, spare + 1)) if spare > 0 else 0
            try:
                noise = read_utterance(clip, self.sample_rate, first, samples)
            except UNREADABLE as error:
                reason = error
            else:
                return np.resize(noise, samples), attempt
        raise ValueError(f"{MOST_ATTEMPTS} clips of noise in a row could not be read; the last: {reason}")


def through_codec(audio: Wave, sample_rate: int, codec: str, level: float) -> Wave:
    """Encode and decode a clip in memory.

    Args:
        audio: The clip.
        sample_rate: Hz; where the codec does not know it, it works at the next higher one it knows.
        codec: "opus", "vorbis" or "mp3".
        level: How hard to compress, from 0 to 1.
    """
    container, encoding, (gentlest, hardest) = CODECS[codec]
    rates = {"opus": OPUS_RATES, "mp3": MP3_RATES}.get(codec, (sample_rate,))
    rate = min((known for known in rates if known >= sample_rate), default=max(rates))
    coded, limit = _resampled(audio, sample_rate, rate), 1.0 - 2.0**-15
    held = io.BytesIO()
    with soundfile.SoundFile(
        held,
        "w",
        rate,
        1,
        encoding,
        format=container,
        compression_level=gentlest + level * (hardest - gentlest),
    ) as file:
        for start in range(0, len(coded), WRITE_BLOCK):  # libsndfile 1.2 overflows its stack on one long Vorbis write
            file.write(coded[start : start + WRITE_BLOCK].clip(-limit, limit))
    held.seek(0)
    decoded, _ = soundfile.read(held, dtype="float32")
    decoded = _resampled(decoded, rate, sample_rate)[: len(audio)]
    return np.pad(decoded, (0, len(audio) - len(decoded)))


def add_noise(audio: Wave, noise: Wave, snr_db: float) -> Wave:
    """Add noise at a signal-to-noise ratio over the whole clip; silence stays as it is."""
    signal, disturbance = _power(audio), _power(noise)
    if signal == 0.0 or disturbance == 0.0:
        return audio
    return audio + noise * (math.sqrt(signal / disturbance) * _factor(-snr_db))


def level_dbfs(audio: Wave) -> float:
    """RMS level, a constant of 1 being 0 dB; -inf for silence."""
    power = _power(audio)
    return 10 * math.log10(power) if power > 0 else -math.inf


def _power(audio: Wave) -> float:
    return float(np.square(audio, dtype=np.float64).mean())


def _factor(decibels: float) -> float:
    return float(10.0 ** (decibels / 20))


def _resampled(audio: Wave, from_rate: int, to_rate: int) -> Wave:
    return resample(torch.from_numpy(audio), from_rate, to_rate).numpy()


def _check(config: AugmentationConfig) -> None:
    for name in ("noise_share", "codec_share"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} is {getattr(config, name)}, expected a probability")
    for name in ("gain_db", "noise_snr_db"):
        low, high = getattr(config, name)
        if not low <= high:
            raise ValueError(f"{name} is {(low, high)}, expected the lower end first")
    if config.codec_share and (not config.codecs or set(config.codecs) - set(CODECS)):
        raise ValueError(f"codecs is {config.codecs}, expected some of {', '.join(CODECS)}")
    if config.noise_share and not config.noise_manifest:
        raise ValueError(f"noise_share is {config.noise_share} but there is no noise_manifest")
