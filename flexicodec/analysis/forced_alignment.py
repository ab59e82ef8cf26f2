"""Finds the phones of clips that have no alignment, by text or without, and keeps them beside the manifest."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from tqdm import tqdm

from flexicodec.asr.text import primary_language
from flexicodec.corpus import Utterance, read_utterance
from flexicodec.corpus.alignments.alignment import write_textgrid
from flexicodec.corpus.alignments.phone_aligner import SAMPLE_RATE, NotAligned, PhoneAligner
from flexicodec.corpus.alignments.phone_recogniser import PhoneRecogniser
from flexicodec.corpus.audio_reading import UNREADABLE
from flexicodec.parallel import bar_settings, share

ALIGNERS: dict[str, Callable[[], PhoneAligner | PhoneRecogniser]] = {
    "pocketsphinx": PhoneAligner,  # of English texts
    "hama": PhoneRecogniser,  # without a text
}
LONGEST_NAME = 150  # characters of an id in a file's name


@dataclass(frozen=True)
class AlignedManifest:
    """The clips of a manifest, after alignment."""

    utterances: tuple[Utterance, ...]  # in the order of the manifest
    folder: Path  # of the TextGrids
    aligned: int  # clips aligned now
    kept: int  # clips aligned before, by an earlier run or by the manifest itself
    refused: tuple[tuple[str, str], ...]  # id and "reason: details" of the others

    @property
    def reasons(self) -> dict[str, int]:
        """Count the refusals by their reasons."""
        return dict(Counter(reason.split(":")[0] for _, reason in self.refused).most_common())


def alignment_folder(manifest: Path, aligner: str) -> Path:
    """Return the folder of a manifest's alignments: "eval.jsonl" has "eval.pocketsphinx" beside it."""
    return manifest.with_name(f"{manifest.name.removesuffix('.gz').removesuffix('.jsonl')}.{aligner}")


def align_utterances(
    utterances: Sequence[Utterance],
    folder: Path,
    aligner: str = "pocketsphinx",
    processes: int = 1,
    progress: bool = False,
) -> AlignedManifest:
    """Find the phones of clips; those that have an alignment keep theirs.

    Args:
        utterances: The clips.
        folder: Of the TextGrids, a file for each clip, with a digest of its audio's place and its text in its name: a
            run that was stopped goes on, and a changed text is aligned anew.
        aligner: "pocketsphinx" aligns texts, and refuses clips whose language is known and not English; "hama"
            recognises phones (IPA) in any language.
        processes: Each with its own aligner.
        progress: Show a bar.

    Raises:
        ImportError: The aligner is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[int, Utterance] = {}
    refused: dict[int, str] = {}
    jobs: list[int] = []
    for index, utterance in enumerate(utterances):
        path = grid_path(folder, utterance)
        reason = refusal(utterance) if aligner == "pocketsphinx" else None
        if utterance.alignment is not None:
            done[index] = utterance
        elif reason is not None:
            refused[index] = reason
        elif path.is_file():
            done[index] = replace(utterance, alignment=path)
        else:
            jobs.append(index)
    kept = len(done)
    align = AlignClip(folder, aligner)
    work = [utterances[index] for index in jobs]
    for position, reason in tqdm(
        share(work, align, processes, partial(AlignClip, folder, aligner)),
        total=len(work),
        unit="clip",
        desc="alignments",
        **bar_settings(progress),
    ):
        index = jobs[position]
        if reason is None:
            done[index] = replace(utterances[index], alignment=grid_path(folder, utterances[index]))
        else:
            refused[index] = reason
    return AlignedManifest(
        utterances=tuple(done.get(index, utterance) for index, utterance in enumerate(utterances)),
        folder=folder,
        aligned=len(done) - kept,
        kept=kept,
        refused=tuple((utterances[index].id, refused[index]) for index in sorted(refused)),
    )


class AlignClip:
    """Align a clip and write its TextGrid; returns why it could not be aligned, or None."""

    def __init__(self, folder: Path, aligner: str) -> None:
        self.folder = folder
        self.aligner = ALIGNERS[aligner]()

    def __call__(self, utterance: Utterance) -> str | None:
        """Align one clip."""
        try:
            audio = read_utterance(utterance, SAMPLE_RATE)
            alignment = self.aligner.align(audio, utterance.text or "")
        except NotAligned as error:
            return str(error)
        except UNREADABLE as error:
            return f"audio cannot be read: {error}"
        tiers = {"phones": alignment.phones}
        if alignment.words:
            tiers = {"words": alignment.words, **tiers}
        write_textgrid(grid_path(self.folder, utterance), tiers, len(audio) / SAMPLE_RATE)
        return None


def refusal(utterance: Utterance) -> str | None:
    """Say why a clip is not given to the aligner, if so."""
    if not utterance.text:
        return "no text"
    if primary_language(utterance.language) not in (None, "en"):
        return f"not English: its language is {utterance.language!r}"
    return None


def grid_path(folder: Path, utterance: Utterance) -> Path:
    """Return where the alignment of a clip is kept."""
    content = f"{utterance.path} {utterance.start} {utterance.duration} {utterance.channel} {utterance.text}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    return folder / f"{quote(utterance.id, safe=' @')[-LONGEST_NAME:]}-{digest}.TextGrid"
