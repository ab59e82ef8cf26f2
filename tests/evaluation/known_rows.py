"""Rows of an evaluation whose numbers are known."""

import numpy as np

RUN = {
    "names": ["stoi", "mel_distance", "wer.ctc:x", "cer.ctc:x"],
    "normaliser": "basic",
    "rules": "as they are",
    "clips": 40,
    "seconds": 200.0,
    "version": "0",
    "systems": {},
    "settings": {},
}
CLIPS = 40


def rows_of(system, setting, stoi, rate=10.0, **asked):
    """Rows of forty clips of eight speakers in two corpora, with word errors that are 1 for each."""
    random = np.random.default_rng(5)
    lengths = random.integers(2, 9, CLIPS)
    return [
        {
            "id": f"c{i}",
            "speaker": f"s{i % 8}",
            "corpus": "a" if i < 10 else "b",
            "seconds": float(lengths[i]),
            "system": system,
            "setting": setting,
            "asked": asked,
            "stoi": float(stoi[i]),
            "mel_distance": 1.0 - float(stoi[i]),
            "frame_rate_hz": rate + (i % 2),
            "bitrate_kbps": (rate + (i % 2)) / 10,
            "file_kbps": None,
            "transcripts": {
                "ctc:x": {
                    "word_errors": 1,
                    "words": int(lengths[i]),
                    "character_errors": 2,
                    "characters": 20,
                    "text": "",
                }
            },
        }
        for i in range(CLIPS)
    ]
