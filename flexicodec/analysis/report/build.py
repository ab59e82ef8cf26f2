"""A study as a document: the sections in order, and what no number in them can say."""

from collections.abc import Mapping
from typing import Any

from flexicodec.analysis.report.bits import bits, loss
from flexicodec.analysis.report.contents import boundaries, contents
from flexicodec.analysis.report.document import Document, List, Section
from flexicodec.analysis.report.overview import overview, rates
from flexicodec.analysis.report.phone_rates import phone_rates
from flexicodec.analysis.report.summary import summary
from flexicodec.analysis.study import Study


def make_report(study: Study, about: Mapping[str, Any]) -> Document:
    """Write a study up.

    Args:
        study: What came out.
        about: Where it is from: JSON-able values; "model" and "manifest" stand in the heading.
    """
    gathered = study.gathered
    settings = [{"name": s.name, "threshold": s.threshold, "frame_rate": s.frame_rate} for s in gathered.settings]
    known = {
        "clips": len(gathered.clips),
        "listed": gathered.listed,
        "seconds": round(gathered.seconds, 3),
        "speakers": gathered.speakers,
        "source": gathered.source,
        "unit": gathered.unit,
        "settings": settings,
        "unread": [list(each) for each in gathered.unread],
        "without_phones": [list(each) for each in gathered.without_phones],
        "offset_seconds": study.offset,
        "notes": list(study.notes),
    }
    model, manifest = about.get("model", "a codec"), about.get("manifest", "some clips")
    return Document(
        title=f"Frame rate and {gathered.unit}: {model}",
        lead=f"What the tokens of {model} have to do with what is said, measured on {manifest}.",
        sections=(
            summary(study),
            overview(study),
            rates(study),
            phone_rates(study),
            contents(study),
            boundaries(study),
            bits(study),
            loss(study),
            _limits(study),
        ),
        about={**about, **known},
    )


def _limits(study: Study) -> Section:
    """Say what the numbers do not."""
    gathered = study.gathered
    points = [
        "Correlations over clips mix two things: fast and slow speech, and what else differs between clips. The "
        "windows within clips are closer to the claim that the rate adapts to speech.",
        "tau was fitted to these clips, so rates are met by construction; nothing else was tuned on them but the "
        "offset, on the half that is not scored.",
        "A model is judged here by its tokens alone: nothing was decoded, and nothing is said of how it sounds.",
    ]
    if gathered.speakers < 2:
        points.insert(
            0,
            "All clips count as one speaker's. Intervals then draw clips and say nothing of other speakers, among whom "
            "phone rates differ more than within one.",
        )
    if gathered.source == "recogniser":
        points.insert(
            0, f"What is counted is {gathered.unit} of a text, not phones, and their times are a recogniser's guess."
        )
    if gathered.source == "counts":
        points.insert(
            0, "Phones are counted from texts; what was said may differ, and times inside clips are not known."
        )
    if gathered.source == "alignment":
        points.append(
            "Alignments are taken as true. A forced aligner's boundaries are good to a frame or two of its own (10 "
            "ms each), and worse at pauses."
        )
    return Section("What this cannot say", (List(tuple(points)),))
