"""Simulated speech: phones at known times, and codecs that follow them or ignore them."""

from dataclasses import replace

import numpy as np

from flexicodec.analysis.phone_rate import SpokenClip
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus.alignments.alignment import Segment

FRAME = 0.08
PHONES = ("AH0", "N", "T", "IY1", "S", "R", "D", "L", "EH1", "K")


def phones_at(random, seconds, rate, pauses=0):
    """Make phones of random durations, at `rate` per second on average, with pauses of 0.4 s among them."""
    durations = random.gamma(4, 1 / (4 * rate), int(3 * seconds * rate) + 20)
    labels = [str(label) for label in random.choice(PHONES, len(durations))]
    for at in sorted(random.integers(1, max(2, int(seconds * rate) - 1), pauses), reverse=True):
        durations, labels = np.insert(durations, at, 0.4), [*labels[:at], "sp", *labels[at:]]
    times = np.concatenate([[0.0], np.cumsum(durations)])
    last = int(np.searchsorted(times, seconds))
    times = np.append(times[:last], seconds)
    return tuple(Segment(float(a), float(b), name) for a, b, name in zip(times, times[1:], labels, strict=False))


def tokens_from(starts, frames):
    """Return durations of tokens that start at some frames, and at the first."""
    cuts = np.unique(np.concatenate([[0], [start for start in starts if 0 < start < frames], [frames]])).astype(int)
    return np.diff(cuts)


def frames_of(seconds):
    return int(np.ceil(seconds / FRAME - 1e-9))


def following(random, phones, seconds, noise=0.0):
    """Start a token at the frame nearest to every phone, except for a share `noise` of frames, which is sampled."""
    starts = {round(phone.start / FRAME) for phone in phones}
    frames = frames_of(seconds)
    redrawn = random.random(frames) < noise
    chance = len(starts) / frames
    return tokens_from([t for t in range(frames) if (random.random() < chance if redrawn[t] else t in starts)], frames)


def ignoring(random, phones, seconds):
    """Start tokens at random, at a rate independent of the phones."""
    frames = frames_of(seconds)
    return tokens_from(np.flatnonzero(random.random(frames) < random.uniform(0.3, 0.7)), frames)


def spoken_clips(random, count, codec, seconds=(4.0, 9.0), rates=(5.0, 9.0), pauses=0, speakers=None, **settings):
    """Make clips with the tokens of a codec."""
    clips = []
    for i in range(count):
        duration = float(random.uniform(*seconds))
        phones = phones_at(random, duration, random.uniform(*rates), pauses)
        coded = TokenTimeline(codec(random, phones, duration, **settings), FRAME, duration, max_duration=None)
        clips.append(SpokenClip(f"clip-{i}", coded, phones, speaker=None if speakers is None else f"s{i % speakers}"))
    return clips


def with_audio(clip, random):
    """Give a clip audio: noise, loud in phones, with one tone per phone."""
    rate = 16_000
    audio = 1e-4 * random.standard_normal(round(clip.timeline.seconds * rate))
    for phone in clip.phones:
        if phone.label != "sp":
            first, last = round(phone.start * rate), round(phone.end * rate)
            tone = np.sin(2 * np.pi * random.uniform(200, 4000) * np.arange(last - first) / rate)
            audio[first:last] += 0.1 * tone + 0.01 * random.standard_normal(last - first)
    return replace(clip, timeline=replace(clip.timeline, audio=audio.astype(np.float32)))
