"""From the place of an item in an epoch to its audio: read, cut, changed in speed, augmented."""

import logging
from dataclasses import dataclass
from functools import cache

import numpy as np
import soxr
from jaxtyping import Float

from flexicodec.corpus.reading import UNREADABLE
from flexicodec.training.config import AugmentationConfig
from flexicodec.training.data.augment import MOST_ATTEMPTS, Augmentation
from flexicodec.training.data.order import AUGMENTATION, CROP, REPLACEMENT, SPEED, Slot, crop_start, keyed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """What is heard in one place of a batch.

    Attributes:
        number: Over the whole run.
        audio: As long as it is, unpadded.
        text: What is said; None in crops.
        skipped: Clips that could not be read and were replaced on the way.
    """

    number: int
    audio: Float[np.ndarray, " samples"]
    text: str | None = None
    skipped: int = 0


class ItemMaker:
    """Make items; each is a function of the seed and its slot.

    Args:
        seed: Of the run.
        sample_rate: Hz.
        crop_seconds: Length of a crop; None makes whole utterances.
        speeds: Factors to change the speed of whole utterances by.
        augmentation: What else is done.
    """

    def __init__(
        self,
        seed: int,
        sample_rate: int,
        crop_seconds: float | None,
        speeds: tuple[float, ...],
        augmentation: AugmentationConfig,
    ):
        self.seed, self.sample_rate, self.speeds = seed, sample_rate, speeds
        self.crop = None if crop_seconds is None else round(crop_seconds * sample_rate)
        self.augment = Augmentation(augmentation, sample_rate)

    def __call__(self, slot: Slot) -> Item:
        """Make an item; where its clip cannot be read, another one takes its place.

        Raises:
            ValueError: So many clips in a row cannot be read that something else must be wrong.
        """
        tried = slot
        for skipped in range(MOST_ATTEMPTS):
            try:
                audio = self._read(tried)
                break
            except UNREADABLE as error:
                _warn(str(error))
                reason = error
                tried = self._replacement(slot, skipped)
        else:
            raise ValueError(f"{MOST_ATTEMPTS} clips in a row cannot be read, is the disk gone? The last: {reason}")
        text = tried.clips.text(tried.clip) if self.crop is None else None
        audio, unreadable_noise = self.augment(audio, keyed(AUGMENTATION, self.seed, slot.item))
        return Item(slot.item, audio, text, skipped + unreadable_noise)

    def _read(self, slot: Slot) -> Float[np.ndarray, " samples"]:
        if self.crop is not None:
            samples = int(slot.clips.seconds[slot.clip] * self.sample_rate)
            draw = keyed(CROP, self.seed, slot.item).random()
            return slot.clips.read(slot.clip, crop_start(samples, self.crop, slot.part, slot.parts, draw), self.crop)
        audio = slot.clips.read(slot.clip)
        speed = float(keyed(SPEED, self.seed, slot.item).choice(self.speeds)) if self.speeds else 1.0
        return audio if speed == 1.0 else soxr.resample(audio, self.sample_rate * speed, self.sample_rate, quality="LQ")

    def _replacement(self, slot: Slot, attempt: int) -> Slot:
        """Draw another clip: for a crop any, by its length; else one of the next shorter, to keep the batch's bound."""
        random, seconds = keyed(REPLACEMENT, self.seed, slot.item, attempt), slot.clips.seconds
        if self.crop is not None:
            ends = np.cumsum(seconds)
            return Slot(slot.item, slot.clips, int(np.searchsorted(ends, random.uniform(0, ends[-1]), side="right")))
        order = np.argsort(seconds, kind="stable")
        place = int(np.flatnonzero(order == slot.clip)[0])
        nearest = order[max(0, place - 2 * MOST_ATTEMPTS) : place] if place else order[1 : 1 + 2 * MOST_ATTEMPTS]
        return Slot(slot.item, slot.clips, int(random.choice(nearest)) if len(nearest) else slot.clip)


@cache
def _warn(reason: str) -> None:
    """Warn once in each process of a clip that cannot be read."""
    _log.warning("replaced by another clip: %s", reason)
