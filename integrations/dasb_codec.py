"""audiocodecs and DASB: a `Codec` whose last channel holds durations, as DyCAST's does; 0 there is padding.

All channels have the `vocab_size` of the largest codebook. A bitrate from K * log2(vocab_size) counts too much for the
smaller ones and for durations (3 bits for 8 frames); `kbps` is the true one of the last batch.
"""

import flexicodec
import torch
from audiocodecs.codec import Codec
from flexicodec import Tokens
from flexicodec.audio import resample


class FlexiCodec(Codec):
    def __init__(self, sample_rate, mode="reconstruct", model="flexicodec-mini", **options):
        codec = flexicodec.load(model, parts="all" if mode == "reconstruct" else mode)
        super().__init__(sample_rate, codec.sample_rate, mode)
        self.model, self.options = codec, options
        self.num_codebooks = 2 + options.get("num_codebooks", codec.num_codebooks)  # semantic and durations
        self.vocab_size = max(codec.format.semantic_codebook_size, codec.format.acoustic_codebook_size)

    def embs(self):  # [K, C, H], zero where a codebook is smaller or narrower, and for durations
        vectors = self.model.codebook_vectors()
        every = [*vectors["semantic"], *vectors["acoustic"][: self.num_codebooks - 2]]
        embs = torch.zeros(self.num_codebooks, self.vocab_size, max(each.shape[1] for each in every))
        for i, each in enumerate(every):
            embs[i, : each.shape[0], : each.shape[1]] = each
        return embs

    def _sig_to_toks(self, sig, length):
        tokens = self.model.encode(sig, (sig.shape[-1] * length).round().long(), **self.options)
        self.kbps = tokens.bitrates_kbps
        return torch.cat([tokens.semantic[:, None], tokens.acoustic, tokens.durations[:, None]], 1).movedim(1, 2)

    def _sig_to_feats(self, sig, length):  # the acoustic stream before merging, [B, frames, H]
        return self.model.features(sig, (sig.shape[-1] * length).round().long()).acoustic.movedim(1, 2)

    def _tokens(self, toks):
        return Tokens(toks[..., 0], toks[..., 1:-1].mT, toks[..., -1], format=self.model.format)

    def _sig_to_qfeats(self, sig, length):
        return self._toks_to_qfeats(self._sig_to_toks(sig, length), length)

    def _toks_to_qfeats(self, toks, length):  # a vector per token, [B, N, H]
        return self.model.embed(self._tokens(toks)).movedim(1, 2)

    def _toks_to_sig(self, toks, length):  # durations say where a clip ends, to whole frames
        codec = self.model
        return resample(codec.decode(self._tokens(toks)), codec.output_sample_rate, codec.sample_rate)
