"""A soak: threads and processes that encode, decode, stream, load and change weights for hours, as one thread would.

`FLEXICODEC_SOAK_SECONDS` sets how long it takes, 7200 by default.
"""

import os
import random
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

import flexicodec
from flexicodec import Tokens

SECONDS = float(os.environ.get("FLEXICODEC_SOAK_SECONDS", 7200))
THREADS = 8
PROCESSES = 2
SETTLING = 0.25  # share of the time after which memory must be flat
GROWTH = 0.02
SHORTEST = 300.0  # seconds from which on memory is judged
RECORDINGS = [flexicodec.EXAMPLE, *sorted((Path(__file__).parent / "data" / "speech").glob("*.flac"))]
CHOICES = ({}, {"frame_rate": 6.25}, {"num_codebooks": 0}, {"frame_rate": 4.0, "num_codebooks": 2})


class Work:
    """Models, clips and what one thread gives for them."""

    def __init__(self, folders):
        self.folders = folders
        self.lock = threading.Lock()  # of the model whose weights change
        clips = []
        for path in RECORDINGS:
            audio = flexicodec.read_audio(path, 16_000)
            clips += [audio[:, start : start + 24_000 + 777 * len(clips)] for start in (0, 8_000)]
        self.clips = clips
        self.codecs = [flexicodec.load(folder) for folder in folders]
        self.changing = flexicodec.load(folders[0])
        self.weights = [{k: v.clone() for k, v in codec.state_dict().items()} for codec in self.codecs]
        self.expected = {}
        for model, codec in enumerate(self.codecs):
            for clip, audio in enumerate(clips):
                for choice, options in enumerate(CHOICES):
                    tokens = codec.encode(audio, **options)
                    self.expected[model, clip, choice] = tokens, codec.decode(tokens)
                self.expected[model, clip, "stream"] = self.stream(codec, audio, [len(audio[0])])

    @staticmethod
    def stream(codec, audio, sizes):
        """Encode in chunks, and decode what comes in one."""
        with codec.streaming_encoder(num_codebooks=2) as encoder, codec.streaming_decoder() as decoder:
            pieces = [encoder.encode(chunk) for chunk in audio.split(sizes, dim=1)] + [encoder.flush()]
            pieces = [piece for piece in pieces if piece is not None]
            played = [decoder.decode(piece) for piece in pieces] + [decoder.flush()]
        return Tokens.concat(pieces), torch.cat(played, dim=1)

    def once(self, draw):
        """Do one thing and compare it; returns its name."""
        model = draw.randrange(len(self.codecs))
        clip = draw.randrange(len(self.clips))
        choice = draw.randrange(len(CHOICES))
        audio = self.clips[clip]
        wanted, heard = self.expected[model, clip, choice]
        what = draw.choice(["encode", "encode", "decode", "stream", "load", "swap"])
        if what == "encode":
            assert self.codecs[model].encode(audio, **CHOICES[choice]) == wanted
        elif what == "decode":
            torch.testing.assert_close(self.codecs[model].decode(wanted), heard, atol=1e-4, rtol=0)
        elif what == "stream":
            tokens, played = self.stream(self.codecs[model], audio, chunks(draw, audio.shape[1]))
            wanted, heard = self.expected[model, clip, "stream"]
            assert tokens.durations.tolist() == wanted.durations.tolist()
            assert played.shape == heard.shape
        elif what == "load":
            assert flexicodec.load(self.folders[model]).encode(audio, **CHOICES[choice]) == wanted
        else:
            with self.lock:  # a model in use by one thread may change
                self.changing.load_state_dict(self.weights[model])
                assert self.changing.encode(audio, **CHOICES[choice]) == wanted
                assert self.changing.fingerprint == self.codecs[model].fingerprint
        return what


def chunks(draw, samples):
    """Sizes of chunks that sum up to so many samples."""
    sizes = []
    while sum(sizes) < samples:
        sizes.append(min(draw.randrange(1, 12_000), samples - sum(sizes)))
    return sizes


def resident():
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(folders, seconds, seed):
    """Work for so many seconds with all threads; returns counts of what was done, memory over time, and errors."""
    torch.set_num_threads(1)
    work = Work(folders)
    end = time.monotonic() + seconds
    done, errors = [], []

    def run(number):
        draw = random.Random(seed * 1000 + number)
        while time.monotonic() < end and not errors:
            try:
                done.append(work.once(draw))
            except BaseException:
                errors.append(traceback.format_exc())

    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("error")
        threads = [pool.submit(run, number) for number in range(THREADS)]
        memory = []
        while not all(thread.done() for thread in threads):
            memory.append(resident())
            time.sleep(min(seconds / 20, 10))
    return {name: done.count(name) for name in set(done)}, memory, errors


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_hours_of_everything_at_once(whole, make_codec, tmp_path):
    other = make_codec("whole", seed=1)
    folders = [str(each.save_pretrained(tmp_path / name)) for name, each in (("a", whole), ("b", other))]
    with get_context("spawn").Pool(PROCESSES) as pool:
        results = pool.starmap(soak, [(folders, SECONDS, seed) for seed in range(PROCESSES)])
    for counts, memory, errors in results:
        assert errors == []
        assert counts.keys() == {"encode", "decode", "stream", "load", "swap"}, counts
        if SECONDS >= SHORTEST:
            settled = memory[int(SETTLING * len(memory)) :]
            half = len(settled) // 2
            assert max(settled[half:]) <= (1 + GROWTH) * max(settled[:half]), memory
