"""How many streams does one process decode in real time? Clients on loopback send tokens as they would be spoken.

    python experiments/serving/load.py --streams 32 --seconds 10 --output experiments/serving/results.json

Each client is a connection that sends a token when it ends and reads audio. The server takes what has come from all of
them, decodes it in one call of `CodeToWave`, and answers. Measured for each stream: the time to its first audio beyond
what the decoder's look-ahead makes it wait, and how late later audio is.
"""

import argparse
import asyncio
import json
import os
import struct
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

import flexicodec
from flexicodec.models.streaming.code_to_wave import CodeToWave

HEADER = struct.Struct("<HHB")  # codebooks, frames of the token, whether it is the last


class Server:
    """Decodes the tokens that have come since its last call, all requests together."""

    def __init__(self, stage):
        self.stage = stage
        self.waiting = {}  # request: (codes, frames, last) of its oldest token
        self.writers = {}
        self.news = asyncio.Event()
        self.batches = []

    async def serve(self, reader, writer):
        request = str(writer.get_extra_info("peername"))
        self.writers[request] = writer
        self.waiting[request] = []
        last = False
        while not last:
            count, frames, last = HEADER.unpack(await reader.readexactly(HEADER.size))
            codes = np.frombuffer(await reader.readexactly(2 * count), np.uint16)
            self.waiting[request].append((codes.astype(np.int64), frames, bool(last)))
            self.news.set()

    async def decode(self):
        while True:
            await self.news.wait()
            self.news.clear()
            ready = {request: tokens for request, tokens in self.waiting.items() if tokens}
            if not ready:
                continue
            for request in ready:
                self.waiting[request] = []
            # One call for all, padded to the most tokens that any of them has
            longest = max(map(len, ready.values()))
            codes = torch.zeros(len(ready), len(next(iter(ready.values()))[0][0]), longest, dtype=torch.long)
            durations = torch.zeros(len(ready), longest, dtype=torch.long)
            finished = []
            for row, tokens in enumerate(ready.values()):
                for column, (own, frames, _) in enumerate(tokens):
                    codes[row, :, column] = torch.from_numpy(own)
                    durations[row, column] = frames
                finished.append(tokens[-1][2])
            self.batches.append(len(ready))
            audio = await asyncio.to_thread(self.stage.decode, list(ready), codes, durations, finished)
            for request, samples, end in zip(ready, audio, finished, strict=True):
                writer = self.writers[request]
                data = (samples.clamp(-1, 1) * 32767).to(torch.int16).numpy().tobytes()
                writer.write(struct.pack("<I", len(data)) + data)
                if end:
                    writer.close()


async def speak(port, tokens, codec, delay):
    """Send a clip's tokens at the times they end; return when each frame of audio came, from the start of speech."""
    await asyncio.sleep(delay)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    codes = torch.cat([tokens.semantic, tokens.acoustic[0]]).numpy().astype(np.uint16)
    durations = tokens.durations[0].tolist()
    begin = time.monotonic()

    async def send():
        at = 0
        for i, frames in enumerate(durations):
            at += frames
            await asyncio.sleep(max(0.0, begin + at / codec.base_frame_rate - time.monotonic()))
            writer.write(HEADER.pack(len(codes), frames, i == len(durations) - 1) + codes[:, i].tobytes())

    sending = asyncio.create_task(send())
    arrivals, samples = [], 0
    total = sum(durations) * codec.frame_size
    while samples < total:
        (size,) = struct.unpack("<I", await reader.readexactly(4))
        await reader.readexactly(size)
        if size:
            arrivals.append((samples, time.monotonic() - begin))
            samples += size // 2
    await sending
    writer.close()
    return arrivals, samples == total


async def run(args, codec, clips):
    options = {} if args.lookahead is None else {"lookahead_frames": args.lookahead}
    server = Server(CodeToWave(codec, **options))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    decoding = asyncio.create_task(server.decode())
    before = time.process_time()
    begun = time.monotonic()
    # Streams begin within a second of each other.
    delays = np.random.default_rng(0).random(args.streams)
    streams = [speak(port, clips[i % len(clips)], codec, delays[i]) for i in range(args.streams)]
    heard = await asyncio.gather(*streams, return_exceptions=True)
    wall, cpu = time.monotonic() - begun, time.process_time() - before
    decoding.cancel()
    listening.close()
    good = [each for each in heard if not isinstance(each, BaseException) and each[1]]
    # What the model makes a stream wait: its first token and the look-ahead.
    wait = codec.streaming_decoder(**options).latency_at(args.frame_rate)
    first = [arrivals[0][1] for arrivals, _ in good]
    # Latest that playing had to begin for no gap, compared with when it could at first
    stall = [
        max(at - begun_at / codec.sample_rate for begun_at, at in arrivals) - arrivals[0][1] for arrivals, _ in good
    ]
    seconds = sum(float(clips[i % len(clips)].seconds) for i in range(args.streams))
    return {
        "streams": args.streams,
        "dropped": args.streams - len(good),
        "first_audio_seconds": {"median": median(first), "largest": max(first), "latency of the model": wait},
        "buffer_for_no_gap_seconds": {"median": median(stall), "largest": max(stall)},
        "real_time_factor_of_all": cpu / seconds,
        "cpu_share": cpu / wall,
        "requests_per_call": float(np.mean(server.batches)),
        "load_of_the_machine": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="flexicodec-mini")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--frame-rate", type=float, default=6.25)
    parser.add_argument(
        "--lookahead", type=int, help="frames; fewer than the decoder looks ahead are sooner, not exact"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    codec = flexicodec.load(args.model)
    audio = flexicodec.read_audio(flexicodec.EXAMPLE)
    audio = audio.repeat(1, int(args.seconds * codec.sample_rate / audio.shape[1]) + 1)
    pieces = [audio[:, i * 4000 :][:, : int(args.seconds * codec.sample_rate)] for i in range(2)]
    clips = [codec.encode(piece, frame_rate=args.frame_rate) for piece in pieces]
    found = {"model": args.model, "frame_rate": args.frame_rate, "threads": args.threads, "lookahead": args.lookahead}
    found |= asyncio.run(run(args, codec, clips))
    print(json.dumps(found, indent=2))
    if args.output:
        args.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
