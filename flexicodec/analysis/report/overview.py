"""The report's first sections: what was looked at, how, and what rates came out."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float

from flexicodec.analysis.clips import Clip
from flexicodec.analysis.figures import draw_rate_curve
from flexicodec.analysis.plots import plot_tokens
from flexicodec.analysis.report.document import Block, Figure, List, Number, Prose, Section, Table
from flexicodec.analysis.study import SettingStudy, Study

SHOWN_CLIPS = 200  # of those that are missing
SHOWN_SECONDS = (3.0, 6.0)  # an example is about as long as this, and shown up to the latter

SOURCES = {
    "alignment": "phones come from alignments in time; silence is what the alignment says",
    "counts": "phones are counts of a pronouncing dictionary, from the manifest: pauses and what speakers swallow are "
    "not in them, and silence is told by loudness (30 dB below the loud part of a clip)",
    "recogniser": "what is counted is not phones: the texts were laid along the sound by a CTC recogniser, which gives "
    "when it wrote each of its own symbols; silence is told by loudness (30 dB below the loud part of a clip)",
}


def overview(study: Study) -> Section:
    """Say what was looked at, and what the words and brackets mean."""
    gathered = study.gathered
    missing = [f"{count} {reason}" for reason, count in gathered.reasons.items()]
    speakers = gathered.speakers or "unknown"
    facts = (
        f"{len(gathered.clips)} of {gathered.listed} clips were encoded, {gathered.seconds / 3600:.2f} hours, "
        f"speakers: {speakers}; {len(gathered.with_phones)} of them have {gathered.unit}.",
        f"Left out: {'; '.join(missing)}." if missing else "No clip was left out.",
        f"Source: {SOURCES[gathered.source]}.",
    )
    drawn = "speakers, then their clips" if gathered.clusters(gathered.with_phones) else "clips"
    words = (
        f"A frame is a step of the {gathered.format.base_frame_rate:g} Hz grid, a token is a run of merged frames, the "
        "frame rate is tokens per second, tau is the similarity above which neighbouring frames are merged.",
        'A setting like "6.25 Hz" is one tau for all clips, fitted to these clips so that all their tokens over all '
        'their seconds give the rate; "6.25 Hz, every clip" meets it in each of them, so that their rates cannot vary.',
        f"Brackets are 95 % intervals, by bootstrap over {drawn} unless said otherwise.",
    )
    notes = [Prose("What could not be answered: " + "; ".join(study.notes) + ".")] if study.notes else []
    return Section("What was looked at", (List(facts), *_left_out(study), List(words), *notes))


def _left_out(study: Study) -> tuple[Block, ...]:
    """List the clips that are missing, with the whole reason."""
    gathered = study.gathered
    every = (*gathered.unread, *gathered.without_phones)
    if not every:
        return ()
    more = len(every) - SHOWN_CLIPS
    said = f"Clips left out altogether, or without {gathered.unit}, and why."
    said += f" There are {more} more; numbers.json lists all." if more > 0 else ""
    rows = tuple((name, " ".join(reason.split())) for name, reason in every[:SHOWN_CLIPS])
    return (Table("left_out", said, ("clip", "reason"), rows),)


def rates(study: Study) -> Section:
    """List frame rates and bitrates, draw the way from tau to them, and show a clip."""
    curve, cap = study.curve, study.gathered.format.max_duration
    long_enough = _long_enough(study)
    short = int((~long_enough).sum())
    used = {
        each.setting.name: (each.setting.threshold, each.frame_rate.value)
        for each in study.settings
        if each.setting.threshold is not None
    }
    table = Table(
        "rates",
        "Settings and what they give. Spread is over clips: standard deviation, and the range of the middle 90 %."
        + (f" Clips shorter than a frame, {short} here, are left out of it." if short else ""),
        ("setting", "tau", "tokens per second (Hz)", "spread (Hz)", "middle 90 % (Hz)", "nominal kbit/s"),
        tuple(_rate_row(each, each.frame_rates[long_enough]) for each in study.settings),
    )
    figure = Figure(
        "rate_curve",
        "Tokens per second against tau. Each clip has a rate of its own at one tau; the band holds 90 % of them.",
        f"A rising curve from {curve.corpus[0]:.2f} to {curve.corpus[-1]:.2f} tokens per second as tau goes from "
        f"{curve.thresholds[0]:.2f} to {curve.thresholds[-1]:.2f}, with a band around it.",
        draw_rate_curve(
            curve.thresholds,
            curve.frame_rates[:, long_enough],
            curve.corpus,
            used,
            study.gathered.format.base_frame_rate / cap if cap else None,
        ),
    )
    return Section("Frame rates", (table, figure, *_example(study)))


def _long_enough(study: Study) -> Bool[np.ndarray, " clips"]:
    """Tell which clips last a frame; tokens over the seconds of shorter ones are no rate that anything has."""
    form = study.gathered.format
    return np.array([clip.seconds * form.sample_rate >= form.frame_size - 0.5 for clip in study.gathered.clips])


def _rate_row(each: SettingStudy, frame_rates: Float[np.ndarray, " clips"]) -> tuple[str | Number, ...]:
    threshold, count = each.setting.threshold, len(frame_rates)
    middle = np.quantile(frame_rates, [0.05, 0.95]) if count else [math.nan] * 2
    return (
        each.setting.name,
        "–" if threshold is None else Number(threshold, "cosine", digits=4),
        Number.of(each.frame_rate, "Hz", "all tokens over all seconds", 2),
        Number(float(frame_rates.std(ddof=1)) if count > 1 else 0.0, "Hz", items=count, digits=2),
        f"{middle[0]:.2f} to {middle[1]:.2f}" if count else "–",
        Number.of(each.nominal_kbps, "kbit/s", "all fields of all tokens over all seconds", 3),
    )


def _example(study: Study) -> tuple[Block, ...]:
    """Show one clip: the one nearest to five seconds, with phones if any has them."""
    clips: tuple[Clip, ...] = study.gathered.with_phones or study.gathered.clips
    clip = min(clips, key=lambda each: abs(each.seconds - sum(SHOWN_SECONDS) / 2))
    setting = study.main.setting
    tiers = {}
    if clip.alignment is not None:
        tiers = {"phones": clip.alignment.phones} | ({"words": clip.alignment.words} if clip.alignment.words else {})
    elif clip.symbols is not None:
        tiers = {study.gathered.unit: clip.symbols}
    drawing = plot_tokens(
        torch.as_tensor(clip.audio),
        clip.tokens[setting.name],
        torch.as_tensor(clip.similarities),
        tiers=tiers,
        span=(0.0, min(clip.seconds, SHOWN_SECONDS[1])),
    )
    said = f" The recogniser heard: “{clip.transcript}”." if clip.transcript else ""
    return (
        Figure(
            "example",
            f"Clip {clip.id} at {setting.name}: where tokens start, how many frames they last, what is said, and the "
            f"similarity of neighbouring frames with tau.{said}",
            "Spectrogram of a clip with token boundaries; tokens of "
            f"{int(clip.tokens[setting.name].durations.min())} to {int(clip.tokens[setting.name].durations.max())} "
            "frames.",
            drawing,
            wide=True,
        ),
    )
