"""Tokens as tiers of segments, to be looked at in Praat beside the phones, or read by tools that know CTM."""

import os
from pathlib import Path

from flexicodec.analysis.clips import Clip, Gathered
from flexicodec.analysis.segments import Segment, write_ctm, write_textgrid
from flexicodec.tokens import Tokens


def token_tiers(tokens: Tokens, i: int = 0) -> dict[str, tuple[Segment, ...]]:
    """Lay out the tokens of clip i in time.

    Returns:
        Tier "durations": every token, labelled with the frames it lasts; tier "codes": labelled with its semantic code
        or, for a codec without, with its first acoustic one. A token without time (a last frame past the audio's end)
        is left out.
    """
    clip = tokens[i]
    codes = clip.acoustic[0, 0] if clip.semantic is None else clip.semantic[0]
    tiers: dict[str, tuple[Segment, ...]] = {}
    for name, labels in (("durations", clip.durations[0]), ("codes", codes)):
        spans = zip(clip.times(0).tolist(), labels.tolist(), strict=True)
        tiers[name] = tuple(Segment(start, end, str(label)) for (start, end), label in spans)
    return tiers


def save_textgrid(tokens: Tokens, path: str | os.PathLike[str]) -> None:
    """Write the tokens of one clip as a TextGrid with the tiers of `token_tiers`.

    Raises:
        ValueError: More than one clip.
    """
    _check_single(tokens)
    write_textgrid(path, token_tiers(tokens), float(tokens.seconds[0]))


def save_ctm(tokens: Tokens, path: str | os.PathLike[str], utterance: str) -> None:
    """Write the tokens of one clip as CTM lines `utterance 1 start duration label`.

    A label holds the token's frames and its code, as in "3:12345".

    Raises:
        ValueError: More than one clip, or a name with a space in it.
    """
    _check_single(tokens)
    tiers = token_tiers(tokens)
    joined = zip(tiers["durations"], tiers["codes"], strict=True)
    write_ctm(path, {utterance: [Segment(d.start, d.end, f"{d.label}:{c.label}") for d, c in joined]})


def _check_single(tokens: Tokens) -> None:
    if len(tokens) != 1:
        raise ValueError(f"tokens are of {len(tokens)} clips, but a file holds one; save each: tokens[i]")


def clip_tiers(clip: Clip, unit: str = "phones") -> dict[str, tuple[Segment, ...]]:
    """Lay out all that is known of a clip: phones and words, the transcript, and the tokens of every setting.

    Args:
        clip: From `gather`.
        unit: What a recogniser's symbols are, "letters", say.
    """
    tiers: dict[str, tuple[Segment, ...]] = {}
    if clip.alignment is not None:
        tiers = {"phones": clip.alignment.phones, "words": clip.alignment.words}
    elif clip.symbols is not None:
        tiers = {unit: clip.symbols}
    if clip.transcript is not None:
        tiers["transcript"] = (Segment(0.0, clip.seconds, clip.transcript),)
    tokens = {name: token_tiers(each)["durations"] for name, each in clip.tokens.items()}
    return {name: _ending(tier, clip.seconds) for name, tier in (tiers | tokens).items() if tier}


def _ending(tier: tuple[Segment, ...], seconds: float) -> tuple[Segment, ...]:
    """Cut a tier off where the clip ends: aligners round up."""
    return tuple(Segment(s.start, min(s.end, seconds), s.label) for s in tier if s.start < seconds)


def save_textgrids(gathered: Gathered, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a TextGrid for every clip, named by its id, with the tiers of `clip_tiers`; the folder is made if missing.

    Returns:
        The files.

    Raises:
        ValueError: Two ids that make the same name.
    """
    folder = Path(folder)
    paths = [folder / f"{clip.id.strip('/').replace('/', '_')}.TextGrid" for clip in gathered.clips]
    if twice := {path.name for path in paths if paths.count(path) > 1}:
        raise ValueError(f"clips of one name: {', '.join(sorted(twice)[:3])}; give them different ids in the manifest")
    folder.mkdir(parents=True, exist_ok=True)
    for clip, path in zip(gathered.clips, paths, strict=True):
        write_textgrid(path, clip_tiers(clip, gathered.unit), clip.seconds)
    return paths
