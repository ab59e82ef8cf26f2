"""MOSS-Audio-Tokenizer-Eval: with this folder on PYTHONPATH, in a config's `models:`

    - {name: ours, adapter: "audio_tokenizer_eval:FlexiCodecAdapter", model: flexicodec-mini, frame_rate: 6.25}

A module whose name starts with "moss" would be taken for theirs. `nq: 1..8` counts the semantic codebook too. The suite
has no bitrate, so nothing in its results tells rates apart: every clip's true one, durations included, is in `extra`,
and `metadata` has their mean so far.
"""

import flexicodec
from flexicodec.audio import resample
from moss_eval.adapters.base import AudioModelAdapter, ReconstructOutput

OPTIONS = ("frame_rate", "threshold", "policy", "max_duration", "precision")  # of `Codec.encode`


class FlexiCodecAdapter(AudioModelAdapter):
    is_tokenizer = True
    codec = None

    def load(self):
        if self.codec is None:
            self.codec = flexicodec.load(self.config.get("model", "flexicodec-mini"), device=self.device)
            self.max_nq = 1 + self.codec.num_codebooks
            self.options = {name: self.config[name] for name in OPTIONS if name in self.config}
            self.rates = []

    def reconstruct(self, wav, sample_rate, nq=None):
        self.load()
        rate = self.codec.output_sample_rate
        reference = resample(wav.float().mean(0, keepdim=True), sample_rate, rate)
        codebooks = None if nq is None else int(nq) - 1
        tokens = self.codec.encode(reference, num_codebooks=codebooks, sample_rate=rate, **self.options)
        self.rates.append(float(tokens.bitrates_kbps[0]))
        extra = {"bitrate_kbps": self.rates[-1], "frame_rate": float(tokens.frame_rates[0])}
        return ReconstructOutput(self.codec.decode(tokens).cpu(), reference.cpu(), rate, extra)

    def metadata(self):
        mean = sum(self.rates) / len(self.rates) if self.codec is not None and self.rates else None
        return {**super().metadata(), "bitrate_kbps": mean}
