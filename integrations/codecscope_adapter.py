"""codecscope: an adapter for its `analyze` and `compare`, which take one in the place of a name.

    codecscope.analyze(samples, rate, FlexiCodecAdapter(frame_rate=6.25))

`CodecOutput` has one codebook size for all codebooks and no place for durations. So its size is the one at which as
many codes have as many bits as codes of all sizes and durations have together: `bitrate` and `compression_ratio` are
right (to its rounding), `codebook_utilization` is not. Rates are per second of whole frames, as codecscope wants them.
"""

import flexicodec
import torch
from codecscope.adapters import CodecOutput


class FlexiCodecAdapter:
    def __init__(self, model="flexicodec-mini", **options):
        self.codec = flexicodec.load(model)
        self.options = options
        settings = ",".join(f"{name}={value}" for name, value in options.items())
        self.name = f"flexicodec:{model}@{settings or 'default'}"
        self.sample_rate = self.codec.output_sample_rate

    def encode(self, audio):
        tokens = self.codec.encode(torch.as_tensor(audio), sample_rate=self.sample_rate, **self.options)
        codes = [tokens.semantic[0].numpy(), *tokens.acoustic[0].numpy()]
        bits = float(tokens.bitrates_kbps[0] * tokens.seconds[0]) * 1000
        return CodecOutput(
            codes,
            round(2 ** (bits / sum(map(len, codes)))),
            self.codec.decode(tokens)[0].numpy(),
            int(tokens.frame_lengths[0]) * self.codec.output_frame_size,
        )
