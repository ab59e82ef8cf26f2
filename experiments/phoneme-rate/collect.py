"""Align clips with their texts and encode them, once: the data of `many_speakers.py`, kept in a cache folder.

    python experiments/phoneme-rate/collect.py speech --cache runs/phones --share 0.5

`speech` holds train.jsonl, eval.jsonl and aligned.jsonl. A share takes that part of every speaker's clips, at random. A
run that was stopped goes on where it was. Stored of a clip are its semantic features, and the similarities that codec
and null codecs cut by; never its tokens, so that policies and thresholds can be changed afterwards.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import flexicodec
from flexicodec.analysis.acoustic_features import measure_controls
from flexicodec.analysis.collect import clip_alignment
from flexicodec.analysis.forced_alignment import align_utterances
from flexicodec.analysis.null_codecs import active_frames, energy_similarities, mel_similarities
from flexicodec.analysis.token_timeline import TokenTimeline
from flexicodec.corpus import Utterance, read_manifest, read_utterance
from flexicodec.corpus.alignments.alignment import Alignment, read_alignment
from flexicodec.io_utils import replacing

CORPORA = ("librispeech_test_clean", "speechocean762", "ljspeech")
SPLITS = ("eval", "aligned", "train")
TOGETHER = 50  # clips that are aligned before they are encoded


@dataclass(frozen=True, eq=False)
class StoredClip:
    """A clip as it lies in the cache, with its alignments."""

    id: str
    split: str
    speaker: str
    corpus: str
    seconds: float
    features: np.ndarray  # [frames, dim], float16
    similarities: dict[str, np.ndarray]  # "semantic", "mel", "energy": of each frame with the next one
    active: np.ndarray  # [frames], whether the frame is loud enough for speech
    controls: tuple[float, float, float]  # mean and spread of the level in dB, share of voiced speech
    alignment: Alignment  # by PocketSphinx
    mfa: Alignment | None  # by the Montreal Forced Aligner, LJSpeech only


def chosen_utterances(speech: Path, share: float = 1.0) -> tuple[list[tuple[str, Utterance]], dict[str, int]]:
    """List clips of `CORPORA` with their split, a random share of every speaker's, and count those without a text.

    Every beginning of the list has about the same share of all speakers.
    """
    by_speaker: dict[str, list[tuple[str, Utterance]]] = {}
    without_text: dict[str, int] = {}
    for split in SPLITS:
        for utterance in read_manifest(speech / f"{split}.jsonl"):
            if utterance.corpus not in CORPORA:
                continue
            if utterance.text:
                by_speaker.setdefault(str(utterance.speaker), []).append((split, utterance))
            else:
                without_text[utterance.corpus] = without_text.get(utterance.corpus, 0) + 1
    random = np.random.default_rng(0)
    placed = []
    for clips in by_speaker.values():
        places = (random.permutation(len(clips)) + random.random()) / len(clips)
        placed += list(zip(places.tolist(), clips, strict=True))
    placed.sort(key=lambda each: each[0])
    return [clip for place, clip in placed if place < share], without_text


def stored_path(cache: Path, utterance: Utterance) -> Path:
    """Return where the features of a clip are kept."""
    content = f"{utterance.path} {utterance.start} {utterance.duration} {utterance.text}"
    return cache / "features" / f"{hashlib.sha256(content.encode()).hexdigest()[:20]}.npz"


def encode(codec: Any, utterance: Utterance, path: Path, phones: Any) -> None:
    """Store what the analysis needs of a clip."""
    audio = read_utterance(utterance, codec.sample_rate)
    features = codec.features(audio, acoustic=False)
    frames = int(features.lengths[0])
    seconds = len(audio) / codec.sample_rate
    frame_seconds = 1 / codec.base_frame_rate
    timeline = TokenTimeline(np.ones(frames, int), frame_seconds, seconds, None, audio, codec.sample_rate)
    controls = measure_controls(audio, codec.sample_rate, phones)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(
            file,
            seconds=seconds,
            features=features.semantic[0].mT.numpy().astype(np.float16),
            semantic=features.similarities[0].numpy(),
            mel=mel_similarities(timeline).astype(np.float32),
            energy=energy_similarities(timeline).astype(np.float32),
            active=active_frames(timeline),
            controls=[controls.log_energy_mean, controls.log_energy_std, controls.voiced_share],
        )


def collect(speech: Path, cache: Path, share: float) -> list[StoredClip]:
    """Align and encode clips, as far as they are not in the cache; what was refused goes to `about.json` there."""
    chosen, without_text = chosen_utterances(speech, share)
    (cache / "features").mkdir(parents=True, exist_ok=True)
    codec = flexicodec.load("flexicodec-mini", parts="semantic")
    stored = []
    refused: list[tuple[str, str]] = []
    for first in tqdm(range(0, len(chosen), TOGETHER), "clips", mininterval=10):
        some = chosen[first : first + TOGETHER]
        # Alignments of the manifest are left out here: all clips get those of one aligner.
        aligned = align_utterances([replace(clip, alignment=None) for _, clip in some], cache / "pocketsphinx")
        refused += aligned.refused
        for (split, utterance), with_grid in zip(some, aligned.utterances, strict=True):
            if with_grid.alignment is None:
                continue
            path = stored_path(cache, utterance)
            alignment = read_alignment(with_grid.alignment)
            if not path.is_file():
                encode(codec, utterance, path, alignment.phones)
            stored.append(read_stored(path, split, utterance, alignment))
    about = {
        **{"clips": len(chosen), "without_text": without_text, "refusals": refused},
        "hours": sum(clip.duration for _, clip in chosen) / 3600,
        **{"encoder": codec.config_dict()["semantic_encoder"]["model_type"], "fingerprint": codec.fingerprint},
    }
    (cache / "about.json").write_text(json.dumps(about, indent=1))
    return stored


def read_stored(path: Path, split: str, utterance: Utterance, alignment: Alignment) -> StoredClip:
    """Read a clip of the cache."""
    held = np.load(path)
    mean, spread, voiced = held["controls"].tolist()
    seconds = float(held["seconds"])
    return StoredClip(
        id=utterance.id,
        split=split,
        speaker=str(utterance.known_speaker),
        corpus=str(utterance.corpus),
        seconds=seconds,
        features=held["features"],
        similarities={name: held[name] for name in ("semantic", "mel", "energy")},
        active=held["active"],
        controls=(mean, spread, voiced),
        alignment=alignment,
        mfa=None if utterance.alignment is None else clip_alignment(utterance, seconds),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of every speaker's clips (default: all)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    collect(args.speech, args.cache, args.share)


if __name__ == "__main__":
    main()
