"""Codec-SUPERB: copy this file to `SoundCodec/codec/flexicodec.py`; `load_codec("flexicodec")` then finds it.

A unit is [1 + K, N], the semantic codes first, and says nothing of durations: a bitrate counted from its shape omits
their bits, and takes all codebooks for equally large. `kbps` is the true rate of all that was extracted, for the table
of bitrates in `scripts/update_leaderboard.py`.
"""

import flexicodec
import torch
from SoundCodec.base_codec.general import BaseCodec, ExtractedUnit


class Codec(BaseCodec):
    model, options = "flexicodec-mini", {"frame_rate": 6.25}  # a subclass chooses others

    def config(self):
        self.codec = flexicodec.load(self.model, device="cpu" if self.device == "mps" else self.device)
        self.sampling_rate, self.setting = self.codec.output_sample_rate, f"{self.model}_{self.options}"
        self.seconds = self.kilobits = 0.0

    @property
    def kbps(self):
        return self.kilobits / self.seconds

    def extract_unit(self, data):
        audio = torch.atleast_2d(torch.as_tensor(data["audio"]["array"]))  # [C, S]
        rate = data["audio"].get("sampling_rate", self.sampling_rate)
        tokens = self.codec.encode(audio[None], sample_rate=rate, channels="mix", **self.options)
        self.seconds += float(tokens.seconds[0])
        self.kilobits += float(tokens.bitrates_kbps[0] * tokens.seconds[0])
        return ExtractedUnit(torch.cat([tokens.semantic, tokens.acoustic[0]]), tokens)

    def decode_unit(self, stuff_for_synth):
        return self.codec.decode(stuff_for_synth)[0].cpu().numpy()
