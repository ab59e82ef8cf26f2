"""Training examples: a clip is read, cropped or changed in speed, and augmented.

Augmentation applies a lossy codec, another level and noise, in this order, to the crop or utterance; the codec to be
trained has to reproduce the result, noise included. All random numbers come from generators of the example's number.
"""

import io
import logging
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile
import soxr
import torch
from jaxtyping import Float

from flexicodec.audio import WRITE_BLOCK, encode_opus, resample
from flexicodec.corpus.audio_reading import UNREADABLE, read_utterance
from flexicodec.corpus.lists.read import read_manifest
from flexicodec.corpus.manifest import Utterance
from flexicodec.training.config import AugmentationConfig
from flexicodec.training.data.sampler import ExampleSpan, Purpose, crop_start, rng_for

Wave = Float[np.ndarray, " samples"]

MOST_ATTEMPTS = 20  # clips tried in a row before giving up
QUIETEST_DBFS = -60.0  # quieter audio is a pause, which `loudness_dbfs` would amplify to the level of speech
# libsndfile's container and encoding, and the range of its compression level (0 best, 1 smallest). With libsndfile 1.2
# and mono at 16 kHz that is about 80 to 20 kbit/s of Opus, 80 to 33 of Vorbis and 64 to 26 of MP3.
CODECS = {
    "opus": ("OGG", "OPUS", (0.75, 0.95)),
    "vorbis": ("OGG", "VORBIS", (0.0, 1.0)),
    "mp3": ("MP3", "MPEG_LAYER_III", (0.0, 0.9)),
}
CODEC_RATES = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One row of a batch.

    Attributes:
        number: Over the whole run.
        audio: Not padded.
        text: Transcript; None in crops.
        skipped: Clips that could not be read and were replaced.
        features: Of the frozen encoder, for the frames of a crop, if they are cached.
        inputs: The same audio at the encoders' rate, where that is another.
    """

    number: int
    audio: Wave
    text: str | None = None
    skipped: int = 0
    features: Float[np.ndarray, "dim frames"] | None = None
    inputs: Wave | None = None


@dataclass(frozen=True)
class ExampleReader:
    """Reads examples, each a function of the seed and its place.

    Attributes:
        crop: Samples of a crop; None reads whole utterances.
        speeds: Factors of the speed of whole utterances, one sampled for each.
        grid: Crops start at a multiple of so many samples.
        input_rate: Hz that the encoders take, which get the augmented audio resampled; None for `sample_rate`.
    """

    seed: int
    sample_rate: int
    crop: int | None
    speeds: tuple[float, ...]
    augment: "Augmentation"
    grid: int = 1
    input_rate: int | None = None

    def __call__(self, place: ExampleSpan) -> Example:
        """Read an example; if its clip cannot be read, another clip takes its place."""
        tried = place
        for skipped in range(MOST_ATTEMPTS):
            try:
                audio, features = self._read(tried)
                break
            except UNREADABLE as error:
                _warn_once(str(error))
                reason = error
                tried = self._replacement(place, skipped)
        else:
            raise ValueError(f"{MOST_ATTEMPTS} clips in a row cannot be read, is the disk gone? The last: {reason}")
        # The augmentation is that of the place, whatever clip is there.
        text = None
        if self.crop is None:
            text = tried.clips.text(tried.clip)
        audio, unreadable_noise = self.augment(audio, rng_for(Purpose.AUGMENTATION, self.seed, place.item))
        inputs = None
        if self.input_rate is not None:
            inputs = _resample(audio, self.sample_rate, self.input_rate)  # as `encode` would
        return Example(place.item, audio, text, skipped + unreadable_noise, features, inputs)

    def _read(self, place: ExampleSpan) -> tuple[Wave, Float[np.ndarray, "dim frames"] | None]:
        if self.crop is not None:
            # The place follows from the duration in the manifest, without opening the file.
            samples = int(place.clips.seconds[place.clip] * self.sample_rate)
            position = rng_for(Purpose.CROP, self.seed, place.item).random()
            start = crop_start(samples, self.crop, place.part, place.parts, position) // self.grid * self.grid
            audio = place.clips.read(place.clip, start, self.crop)
            return audio, place.clips.features(place.clip, start, len(audio))
        audio = place.clips.read(place.clip)
        if self.speeds:
            speed = float(rng_for(Purpose.SPEED, self.seed, place.item).choice(self.speeds))
            if speed != 1.0:
                audio = soxr.resample(audio, self.sample_rate * speed, self.sample_rate, quality="LQ")
        return audio, None

    def _replacement(self, place: ExampleSpan, attempt: int) -> ExampleSpan:
        """Sample another clip: for a crop any, by duration; else a slightly shorter one, to keep the batch's limit."""
        random = rng_for(Purpose.REPLACEMENT, self.seed, place.item, attempt)
        seconds = place.clips.seconds
        if self.crop is not None:
            return ExampleSpan(place.item, place.clips, _sample_by_duration(np.cumsum(seconds), random))

        # Clips by duration, and the 40 before this one.
        order = np.argsort(seconds, kind="stable")
        rank = int(np.flatnonzero(order == place.clip)[0])
        nearest = order[max(0, rank - 2 * MOST_ATTEMPTS) : rank]
        if rank == 0:  # the shortest clip
            nearest = order[1 : 1 + 2 * MOST_ATTEMPTS]
        if len(nearest) == 0:  # the only clip
            return ExampleSpan(place.item, place.clips, place.clip)
        return ExampleSpan(place.item, place.clips, int(random.choice(nearest)))


class Augmentation:
    """Augments clips of one sample rate."""

    def __init__(self, config: AugmentationConfig, sample_rate: int):
        _check(config)
        self.config = config
        self.sample_rate = sample_rate
        self.noise: list[Utterance] = read_manifest(config.noise_manifest) if config.noise_manifest else []
        self._noise_ends = np.cumsum([clip.duration for clip in self.noise])

    def __call__(self, audio: Wave, random: np.random.Generator) -> tuple[Wave, int]:
        """Return the augmented clip, of the same length, and the number of noise clips that could not be read."""
        config = self.config
        unreadable = 0
        # Shares of 0 take a random number too, so that one setting does not change the random numbers of the others.
        if random.random() < config.codec_share:
            codec = str(random.choice(config.codecs))
            audio = through_codec(audio, self.sample_rate, codec, random.random())
        if config.loudness_dbfs is not None and (level := level_dbfs(audio)) > QUIETEST_DBFS:
            audio = audio * _factor(config.loudness_dbfs - level)
        if config.gain_db != (0.0, 0.0):
            audio = audio * _factor(random.uniform(*config.gain_db))
        if random.random() < config.noise_share:
            noise, unreadable = self._noise(len(audio), random)
            audio = add_noise(audio, noise, random.uniform(*config.noise_snr_db))
        peak = float(np.abs(audio).max(initial=0.0))
        if peak > 1.0:  # scaled down, never clipped
            audio = audio / peak
        return audio.astype(np.float32, copy=False), unreadable

    def _noise(self, samples: int, random: np.random.Generator) -> tuple[Wave, int]:
        """Sample a part of the noise, every second equally likely; short clips are repeated."""
        for attempt in range(MOST_ATTEMPTS):
            clip = self.noise[_sample_by_duration(self._noise_ends, random)]
            spare = int(clip.duration * self.sample_rate) - samples  # samples by which the noise is longer
            first = int(random.integers(0, spare + 1)) if spare > 0 else 0
            try:
                noise = read_utterance(clip, self.sample_rate, first, samples)
            except UNREADABLE as error:
                reason = error
            else:
                return np.resize(noise, samples), attempt
        raise ValueError(f"{MOST_ATTEMPTS} clips of noise in a row could not be read; the last: {reason}")


def through_codec(audio: Wave, sample_rate: int, codec: str, compression: float) -> Wave:
    """Encode and decode a clip with Opus, Vorbis or MP3, at `compression` from 0 to 1.

    A codec that does not support the sample rate works at the next higher one.
    """
    # The rate to work at, and the compression level within the codec's range.
    container, encoding, (gentlest, hardest) = CODECS[codec]
    rates = CODEC_RATES.get(codec, (sample_rate,))
    rate = min((known for known in rates if known >= sample_rate), default=max(rates))
    limit = 1.0 - 2.0**-15  # largest 16-bit value
    samples = _resample(audio, sample_rate, rate).clip(-limit, limit)
    level = gentlest + compression * (hardest - gentlest)
    if codec == "opus":
        buffer = io.BytesIO(encode_opus(samples[:, None], rate, level))
    else:
        buffer = io.BytesIO()
        with soundfile.SoundFile(buffer, "w", rate, 1, encoding, format=container, compression_level=level) as file:
            for start in range(0, len(samples), WRITE_BLOCK):  # libsndfile 1.2 overflows its stack on long writes
                file.write(samples[start : start + WRITE_BLOCK])
        buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    # Codecs may add or lose samples at the end.
    decoded = _resample(decoded, rate, sample_rate)[: len(audio)]
    return np.pad(decoded, (0, len(audio) - len(decoded)))


def add_noise(audio: Wave, noise: Wave, snr_db: float) -> Wave:
    """Add noise at a signal-to-noise ratio over the whole clip; silence stays silent."""
    signal_power = _power(audio)
    noise_power = _power(noise)
    if signal_power == 0.0 or noise_power == 0.0:
        return audio
    return audio + noise * (math.sqrt(signal_power / noise_power) * _factor(-snr_db))


def level_dbfs(audio: Wave) -> float:
    """Return the RMS level in dB, 0 for a constant of 1 and -inf for silence."""
    power = _power(audio)
    return 10 * math.log10(power) if power > 0 else -math.inf


def _power(audio: Wave) -> float:
    return float(np.square(audio, dtype=np.float64).mean())


def _factor(decibels: float) -> float:
    return float(10.0 ** (decibels / 20))


def _resample(audio: Wave, from_rate: int, to_rate: int) -> Wave:
    return resample(torch.from_numpy(audio), from_rate, to_rate).numpy()


def _sample_by_duration(ends: Float[np.ndarray, " clips"], random: np.random.Generator) -> int:
    """Sample a clip, every second of all clips equally likely; `ends` are cumulative durations."""
    return int(np.searchsorted(ends, random.uniform(0, ends[-1]), side="right"))


def _check(config: AugmentationConfig) -> None:
    for name in ("noise_share", "codec_share"):
        share = getattr(config, name)
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}, expected a probability")
    for name in ("gain_db", "noise_snr_db"):
        low, high = getattr(config, name)
        if not low <= high:
            raise ValueError(f"{name} is {(low, high)}, expected the lower end first")
    if config.codec_share and (not config.codecs or set(config.codecs) - set(CODECS)):
        raise ValueError(f"codecs is {config.codecs}, expected some of {', '.join(CODECS)}")
    if config.noise_share and not config.noise_manifest:
        raise ValueError(f"noise_share is {config.noise_share} but there is no noise_manifest")


@cache
def _warn_once(reason: str) -> None:
    """Warn of a clip that cannot be read, once in each process."""
    _log.warning("replaced by another clip: %s", reason)
