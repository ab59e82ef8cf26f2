"""Frame rate against phone rate over many speakers: between clips, between and within speakers, and within clips.

    python experiments/phoneme-rate/many_speakers.py speech --cache runs/phones --share 0.5

Writes speakers/results.json and figures beside this file, from what `collect.py` keeps in the cache. Each policy has
one setting for all clips, with which 60 clips of the training speakers have the rate on average; so do null codecs.
"""

import argparse
import json
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from collect import StoredClip, collect
from many_speakers_plots import plot_all
from token_rates import NULLS, RULES, Group, calibrate

from flexicodec.analysis import boundary_scores
from flexicodec.analysis.clip_rates import (
    ClipRates,
    RateTable,
    columns_of,
    pooled_correlation,
    pooled_partial,
    window_products,
)
from flexicodec.analysis.phone_rate import CONTROLS
from flexicodec.analysis.token_contents import ratio_of_sums
from flexicodec.statistics import (
    FITS,
    Interval,
    Sampling,
    fisher_interval,
    fit_line,
    partial_corr,
    pearson,
)

RATES = (8.33, 6.25, 5.0, 4.0)
MAIN_RATES = (8.33, 6.25, 4.0)  # with intervals and differences from null codecs
MAIN = 6.25
CALIBRATION_CLIPS = 60
PAPER_R = 0.775
TIMIT_SECONDS = (2.0, 5.0)  # of most of its sentences
SAMPLING = Sampling(resamples=1000)


# -------------------------------------------------------------------------------------------------- correlations


def speaker_rates(table: RateTable, speakers: np.ndarray) -> np.ndarray:
    """Return phones and tokens per second of each speaker, [speakers, 2]."""
    rates = []
    for name in dict.fromkeys(speakers.tolist()):
        of_speaker = speakers == name
        seconds = table.seconds[of_speaker].sum()
        rates.append((table.phones[of_speaker].sum() / seconds, table.tokens[of_speaker].sum() / seconds))
    return np.array(rates)


def within_speakers(x: np.ndarray, y: np.ndarray, speakers: np.ndarray) -> float:
    """Correlate deviations from speakers' means; `fixed_effects_corr` for numbered speakers, ten times as fast."""
    counts = np.maximum(np.bincount(speakers), 1)
    left = [each - (np.bincount(speakers, each) / counts)[speakers] for each in (x, y)]
    return pearson(*left)


def numbered(rates: Sequence[ClipRates]) -> np.ndarray:
    """Number the speakers of clips."""
    return np.unique([str(each.speaker) for each in rates], return_inverse=True)[1]


def correlations(rates: Sequence[ClipRates]) -> dict[str, Any]:
    """Correlate phones and tokens per second of speech in every way, with intervals by speaker."""
    table = RateTable.of(rates, "speech")
    every = RateTable.of(rates, "all")
    speakers = numbered(rates)
    products = window_products(rates)
    line = fit_line("ols", *table.xy)
    scatter = float(np.std(table.y - line.slope.value * table.x))
    found: dict[str, Any] = {
        "clips": len(rates),
        "speakers": len(set(speakers.tolist())),
        "phones_per_second": ratio_of_sums(table.phones, table.seconds),
        "tokens_per_second_of_speech": table.frame_rate,
        "tokens_per_second": every.frame_rate,
        "phone_rate_sd": float(table.x.std()),
        "frame_rate_sd": float(table.y.std()),
        "r": shown(table.interval(pearson, SAMPLING, method="bca")),
        "r_all_seconds": shown(every.interval(pearson, SAMPLING)),
        "r_given_controls": shown(table.interval(partial_corr, SAMPLING, columns_of(rates, CONTROLS))),
        "r_within_clips": shown(SAMPLING.interval(pooled_correlation, products, clusters=table.clusters)),
        "r_within_clips_given_speech": shown(SAMPLING.interval(pooled_partial, products, clusters=table.clusters)),
        "slope": shown(table.interval(lambda x, y: FITS["ols"](x, y)[0], SAMPLING)),
        "slope_rma": shown(table.interval(lambda x, y: FITS["rma"](x, y)[0], SAMPLING)),
        "phones_per_token": shown(
            SAMPLING.interval(ratio_of_sums, table.phones, table.tokens, clusters=table.clusters)
        ),
        # With this slope and this scatter, r is the paper's where the phone rate varies so much.
        "phone_rate_sd_for_paper": scatter * PAPER_R / (abs(line.slope.value) * (1 - PAPER_R**2) ** 0.5),
    }
    if found["speakers"] > 1:
        means = speaker_rates(table, speakers)
        found["r_between_speakers"] = shown(SAMPLING.interval(pearson, *means.T))
        found["r_within_speakers"] = shown(table.interval(within_speakers, SAMPLING, speakers))
    return found


def differences(own: Sequence[ClipRates], null: Sequence[ClipRates]) -> dict[str, Any]:
    """Compare correlations with those of other tokens of the same clips."""
    table, other = RateTable.of(own, "speech"), RateTable.of(null, "speech")
    speakers = numbered(own)

    def less(statistic: Callable[..., float], x: Any, y: Any, z: Any, *more: Any) -> float:
        return statistic(x, y, *more) - statistic(x, z, *more)

    def less_within(mine: Any, theirs: Any) -> float:
        return pooled_correlation(mine) - pooled_correlation(theirs)

    found = {"r": shown(table.interval(partial(less, pearson), SAMPLING, other.y))}
    if len(set(speakers.tolist())) > 1:
        found["r_within_speakers"] = shown(table.interval(partial(less, within_speakers), SAMPLING, other.y, speakers))
    products = window_products(own), window_products(null)
    found["r_within_clips"] = shown(SAMPLING.interval(less_within, *products, clusters=table.clusters))
    return found


def shown(interval: Interval) -> list[float]:
    """Round an interval to [value, low, high]."""
    return [round(each, 4) for each in (interval.value, interval.low, interval.high)]


# ------------------------------------------------------------------------------------------------------ the questions


def by_duration(rates: Sequence[ClipRates]) -> dict[str, Any]:
    """Correlate clips of three lengths, and of the length of TIMIT's sentences."""
    seconds = np.array([each.seconds for each in rates])
    low, high = np.quantile(seconds, [1 / 3, 2 / 3])
    ranges = {
        "shortest third": (0.0, low),
        "middle third": (low, high),
        "longest third": (high, np.inf),
        f"{TIMIT_SECONDS[0]:g} to {TIMIT_SECONDS[1]:g} s": TIMIT_SECONDS,
    }
    found = {}
    for name, (first, last) in ranges.items():
        chosen = [rates[i] for i in np.flatnonzero((seconds > first) & (seconds <= last)).tolist()]
        table = RateTable.of(chosen, "speech")
        found[name] = {
            "clips": len(chosen),
            "mean_seconds": float(np.mean([each.seconds for each in chosen])),
            "phone_rate_sd": float(table.x.std()),
            "r": shown(table.interval(pearson, SAMPLING)),
        }
    return found


def by_speaker(rates: Sequence[ClipRates]) -> dict[str, Any]:
    """Correlate the clips of each speaker alone, with intervals by Fisher's z."""
    found = {}
    for name in dict.fromkeys(each.speaker for each in rates):
        table = RateTable.of([each for each in rates if each.speaker == name], "speech")
        if len(table.x) >= 8:
            means = [table.phones.sum() / table.seconds.sum(), table.frame_rate]
            r = fisher_interval(pearson(*table.xy), len(table.x))
            found[str(name)] = {"clips": len(table.x), "rates": means, "r": shown(r)}
    return found


def choices_of_tau(groups: dict[str, Group], tau: float) -> list[dict[str, Any]]:
    """Compare thresholds by the mean rate of the training speakers, of the group, and of each of its speakers."""
    rows = []
    for name, group in groups.items():
        own = calibrate(group.clips, "threshold", MAIN)
        by_name: dict[str, list[StoredClip]] = {}
        for clip in group.clips:
            by_name.setdefault(clip.speaker, []).append(clip)
        each = {speaker: calibrate(clips, "threshold", MAIN) for speaker, clips in by_name.items()}
        ways = {
            "training speakers": (tau, lambda clip: tau),
            "the group's own": (own, lambda clip, own=own: own),
            "each speaker's own": (None, lambda clip, each=each: each[clip.speaker]),
        }
        for way, (value, value_of) in ways.items():
            rates = group.with_tokens("threshold", value_of)
            interval = RateTable.of(rates, "speech").interval(pearson, SAMPLING)
            rows.append({"group": name, "tau_by": way, "tau": value, **point(rates), "r": shown(interval)})
    return rows


def check_aligner(clips: Sequence[StoredClip], tau: float) -> dict[str, Any]:
    """Compare PocketSphinx with MFA: boundaries, phone rates, and the correlation that follows from each."""
    scores: dict[float, list[boundary_scores.BoundaryScores]] = {0.02: [], 0.04: []}
    for clip in clips:
        assert clip.mfa is not None
        theirs, ours = (
            boundary_scores.reference_boundaries([each], [clip.seconds])["phones"][0]
            for each in (clip.mfa, clip.alignment)
        )
        for tolerance, of_clips in scores.items():
            of_clips.append(boundary_scores.score(theirs, ours, tolerance))
    # MFA has words without phones: those clips are left out of both.
    mfa = Group.of([replace(clip, alignment=clip.mfa) for clip in clips if clip.mfa is not None])
    ids = {clip.id for clip in mfa.clips}
    ours = Group.of([clip for clip in clips if clip.id in ids])
    first = RateTable.of(mfa.with_tokens("threshold", lambda clip: tau), "speech")
    second = RateTable.of(ours.with_tokens("threshold", lambda clip: tau), "speech")

    def less(x: Any, y: Any, v: Any, w: Any) -> float:
        return pearson(v, w) - pearson(x, y)

    return {
        "clips": len(clips),
        "clips_correlated": len(mfa.clips),
        "boundary_f1": {str(tolerance): boundary_scores.pool(each).f1 for tolerance, each in scores.items()},
        "phone_rate_r": pearson(first.x, second.x),
        "phones": [float(first.phones.sum()), float(second.phones.sum())],
        "seconds_of_speech": [float(first.seconds.sum()), float(second.seconds.sum())],
        "r_by_mfa": shown(first.interval(pearson, SAMPLING)),
        "r_by_pocketsphinx": shown(second.interval(pearson, SAMPLING)),
        "difference": shown(SAMPLING.interval(less, *first.xy, *second.xy)),
    }


def study(clips: list[StoredClip], taus: dict[tuple[str, float], float]) -> dict[str, Any]:
    """Answer all questions."""
    of_corpus = {
        name: [clip for clip in clips if clip.corpus == name]
        for name in ("librispeech_test_clean", "speechocean762", "ljspeech")
    }
    libri = of_corpus["librispeech_test_clean"]
    groups = {
        "LibriSpeech": Group.of(libri),
        "LibriSpeech, held-out speakers": Group.of([clip for clip in libri if clip.split == "eval"]),
        "speechocean762": Group.of(of_corpus["speechocean762"]),
        "LJSpeech": Group.of(of_corpus["ljspeech"]),
        "all": Group.of(clips),
    }
    rows = []
    sweep = []
    for rate in RATES:
        nulls: dict[tuple[str, str], list[ClipRates]] = {}
        for policy in (*NULLS, *RULES):
            for name, group in groups.items():
                if name != "LibriSpeech" and not compared(name, policy, rate):
                    continue
                rates = group.with_tokens(policy, lambda clip, tau=taus[policy, rate]: tau)
                if name == "LibriSpeech":
                    sweep.append({"policy": policy, "rate": rate, **point(rates)})
                nulls[name, policy] = rates
                if rate not in MAIN_RATES or (policy in NULLS and name != "LibriSpeech"):
                    continue
                row = {"group": name, "policy": policy, "rate": rate, **correlations(rates)}
                if policy in RULES and compared(name, NULLS[0], rate):
                    row["less_null"] = {null: differences(rates, nulls[name, null]) for null in NULLS}
                if (policy, rate, name) == ("threshold", MAIN, "LibriSpeech"):
                    row |= details(rates)
                rows.append(row)
                print(f"{policy:18} {rate:5} {name:32} r = {row['r']}", flush=True)
    some = {name: group for name, group in groups.items() if name != "all"}
    tau = taus["threshold", MAIN]
    return {
        "rows": rows,
        "sweep": sweep,
        "choice_of_tau": choices_of_tau(some, tau),
        "aligner": check_aligner(of_corpus["ljspeech"], tau),
    }


def compared(group: str, policy: str, rate: float) -> bool:
    """Tell what is measured: the paper's policy on all groups, all else on LibriSpeech, nulls of others at one rate."""
    if rate not in MAIN_RATES:
        return False
    if policy in NULLS:
        return group == "LibriSpeech" or (rate == MAIN and group != "all")
    return group == "LibriSpeech" or policy == "threshold"


def details(rates: Sequence[ClipRates]) -> dict[str, Any]:
    """Correlate by duration and by speaker; the rates of clips are there for a plot."""
    table = RateTable.of(rates, "speech")
    points = [[round(float(x), 3), round(float(y), 3)] for x, y in zip(*table.xy, strict=True)]
    return {"by_duration": by_duration(rates), "by_speaker": by_speaker(rates), "points": points}


def point(rates: Sequence[ClipRates]) -> dict[str, float]:
    """Correlate without intervals."""
    table = RateTable.of(rates, "speech")
    return {
        "tokens_per_second": RateTable.of(rates, "all").frame_rate,
        "r": pearson(*table.xy),
        "r_within_speakers": within_speakers(*table.xy, numbered(rates)),
        "r_within_clips": pooled_correlation(window_products(rates)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of every speaker's clips (default: all)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "speakers")
    args = parser.parse_args()

    torch.set_num_threads(1)
    clips = collect(args.speech, args.cache, args.share)
    known = [clip for clip in clips if clip.split == "train" and clip.corpus == "librispeech_test_clean"]
    chosen = np.random.default_rng(0).permutation(len(known))[:CALIBRATION_CLIPS]
    taus = {}
    for policy in (*NULLS, *RULES):
        for rate in RATES:
            taus[policy, rate] = calibrate([known[i] for i in chosen], policy, rate)
    about = json.loads((args.cache / "about.json").read_text())
    refusals = about.pop("refusals")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    results = {
        **{"commit": commit, "machine": platform.processor() or platform.machine(), "torch": torch.__version__},
        **{"share": args.share, **about, "refused": Counter(reason.split(":")[0] for _, reason in refusals)},
        **{"refusals": refusals, "paper_r": PAPER_R},
        "settings": [[policy, rate, value] for (policy, rate), value in taus.items()],
        **study(clips, taus),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    plot_all(results, args.output)


if __name__ == "__main__":
    main()
