"""Files that the page refuses with a sentence."""

import numpy as np
import soundfile


def silence(path):
    soundfile.write(path, np.zeros(16_000), 16_000)


def hiss(path):
    soundfile.write(path, 1e-4 * np.sin(np.arange(16_000)), 16_000, subtype="FLOAT")


def hour(path):
    # Its header is that of an hour: eight bits of silence at 8 kHz.
    soundfile.write(path, np.zeros(3600 * 8000, np.int16), 8000, subtype="PCM_U8")


def not_a_number(path):
    soundfile.write(path, np.full(16_000, np.nan), 16_000, subtype="FLOAT")


BAD_FILES = {  # what writes it, and what the sentence says
    "silence.wav": (silence, r"silence\.wav is silent \(digital silence"),
    "hiss.wav": (hiss, r"hiss\.wav is silent \(-80 dBFS at its peak\)"),
    "hour.wav": (hour, r"hour\.wav lasts 60\.0 min \(3600\.0 s\), and this page takes 5 s"),
    "nan.wav": (not_a_number, r"nan\.wav.*NaN"),
    "empty.wav": (lambda path: path.write_bytes(b""), r"empty\.wav is empty"),
    "letter.mp3": (lambda path: path.write_text("Dear Sir or Madam"), r"cannot read letter\.mp3 as audio"),
    "no samples.wav": (lambda path: soundfile.write(path, np.zeros(0), 16_000), "no samples.wav holds 0 samples"),
}
