"""Moonshine Tiny, an English recogniser (arXiv 2410.15608): its decoder, greedy decoding, and texts of clips.

The weights come from an installed wheel, see `flexicodec.encoders.moonshine_weights`. Its training data are not
published and may hold LibriSpeech, so error rates on LibriSpeech can be too low.
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from flexicodec.audio import collate
from flexicodec.encoders import moonshine_weights
from flexicodec.encoders.base import MoonshineConfig
from flexicodec.encoders.moonshine import FIRST_FRAME, FeedForward, MoonshineAttention, MoonshineEncoder, rotary_factors
from flexicodec.nn.attention import sdpa
from flexicodec.nn.masking import valid_steps
from flexicodec.weights import load_exactly

VOCABULARY = 32_768
BEGIN = 1
END = 2
FIRST_BYTE = 3  # tokens 3 to 258 are the bytes 0 to 255
FIRST_PIECE = 259

TOKENS_PER_SECOND = 6.5  # most that are decoded, as Moonshine's authors advise
SHORTEST_LIMIT = 8  # tokens that any clip may have
LOOP_REPEATS = 4  # times that the same tokens follow each other before decoding stops
LONGEST_LOOP = 12  # tokens of the repeated part

PIECE_SECONDS = 30.0  # longer clips are cut; recognition is good to 33 s, and lost at 46 s
CUT_SECONDS = 10.0  # at the end of a piece, in which the quietest place to cut is looked for
LEVEL_SECONDS = 0.1  # of the windows whose levels are measured
NOISE_DBFS = -50.0  # a clip nowhere louder, and
NOISE_RANGE_DB = 6.0  # nowhere louder than its quieter parts (10th percentile) by more, is background noise
SILENCE_DBFS = -100.0  # of windows that count as digital silence

Cache = list[tuple[Tensor, Tensor]]


class MoonshineDecoder(nn.Module):
    """Moonshine's decoder: causal self-attention over tokens, and attention over the encoder's features."""

    def __init__(self, config: MoonshineConfig | None = None, vocabulary: int = VOCABULARY) -> None:
        super().__init__()
        self.config = config = config or MoonshineConfig()
        # Drawn here: nn.Embedding's own normal_ imports PyTorch's compiler on the meta device.
        weight = torch.empty(vocabulary, config.dim).uniform_(-0.1, 0.1)
        self.embed_tokens = nn.Embedding(vocabulary, config.dim, _weight=weight)
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.dim, bias=False)

    def memory(self, features: Float[Tensor, "batch dim frames"]) -> Cache:
        """Compute the keys and values of the features once for all tokens, for every layer."""
        frames = features.mT
        memory = []
        for layer in self.layers:
            heads = cast(DecoderLayer, layer).encoder_attn
            memory.append((heads.heads("k_proj", frames), heads.heads("v_proj", frames)))
        return memory

    def forward(
        self,
        tokens: Int[Tensor, "batch steps"],
        memory: Cache,
        valid: Bool[Tensor, "batch frames"] | None = None,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "batch steps vocabulary"], Cache]:
        """Return the logits of each next token, and the keys and values of all tokens so far.

        Args:
            tokens: Those that follow the cached ones; a clip's first one is `BEGIN`.
            memory: Of the features, from `memory`.
            valid: Mask of the valid features; None for all.
            cache: What the last call returned; None at the beginning.
        """
        past = cache[0][0].shape[2] if cache else 0
        positions = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        frequencies = rotary_factors(positions, self.config)
        x = self.embed_tokens(tokens)
        extended = []
        for i, layer in enumerate(self.layers):
            x, held = layer(x, frequencies, memory[i], valid, cache[i] if cache else None)
            extended.append(held)
        return F.linear(self.norm(x), self.embed_tokens.weight), extended


class DecoderLayer(nn.Module):
    """Self-attention, attention over the features, and a gated feed-forward, each after a layer norm."""

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        self.self_attn = MoonshineAttention(config)
        self.encoder_attn = MoonshineAttention(config)
        self.mlp = FeedForward(config, gated=True)
        self.input_layernorm = nn.LayerNorm(config.dim, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(config.dim, bias=False)
        self.final_layernorm = nn.LayerNorm(config.dim, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch steps dim"],
        frequencies: Complex[Tensor, "steps half_dim"],
        memory: tuple[Tensor, Tensor],
        valid: Bool[Tensor, "batch frames"] | None,
        cache: tuple[Tensor, Tensor] | None,
    ) -> tuple[Float[Tensor, "batch steps dim"], tuple[Tensor, Tensor]]:
        """Transform tokens, and return their keys and values behind the cached ones."""
        # Self-attention: all tokens so far.
        normed = self.input_layernorm(x)
        heads = self.self_attn
        query = heads.rotated("q_proj", normed, frequencies)
        key = heads.rotated("k_proj", normed, frequencies)
        value = heads.heads("v_proj", normed)
        if cache is not None:
            key = torch.cat([cache[0], key], dim=2)
            value = torch.cat([cache[1], value], dim=2)
        causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=x.device)
        causal = causal.tril(key.shape[2] - query.shape[2])
        x = x + heads.merge(sdpa(query, key, value, causal))
        # The valid features. A clip without any attends to all, as a softmax over nothing is NaN.
        query = self.encoder_attn.heads("q_proj", self.post_attention_layernorm(x))
        mask = None if valid is None else (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]
        x = x + self.encoder_attn.merge(sdpa(query, *memory, mask))
        return x + self.mlp(self.final_layernorm(x)), (key, value)


class Moonshine(nn.Module):
    """Moonshine's encoder and decoder with its vocabulary."""

    sample_rate = MoonshineEncoder.sample_rate

    def __init__(self, config: MoonshineConfig | None = None, pieces: Sequence[bytes] = ()) -> None:
        super().__init__()
        self.encoder = MoonshineEncoder(config)
        self.decoder = MoonshineDecoder(config, len(pieces) or VOCABULARY)
        self.pieces = list(pieces)

    @classmethod
    def load(cls, device: torch.device | str | None = None) -> "Moonshine":
        """Load Moonshine Tiny from the wheel of moonshine-voice, in eval mode, frozen and in float32.

        Raises:
            ImportError: The extra `instruments` is not installed.
            ValueError: Another version of the wheel is.
        """
        with torch.device("meta"):  # no random weights
            model = cls(pieces=moonshine_weights.read_pieces())
        load_exactly(model.encoder, moonshine_weights.encoder_state())
        load_exactly(model.decoder, moonshine_weights.decoder_state())
        return model.requires_grad_(False).to(device or "cpu").eval()

    @torch.no_grad()
    def transcribe(self, clips: Sequence[Float[np.ndarray, " samples"]]) -> list[str]:
        """Transcribe float clips at 16 kHz, full scale at 1, as one batch.

        Clips longer than 30 s are cut at their quietest places and their pieces' texts joined. Clips without a frame
        (56 ms), silence, and faint noise (see `is_background`) have an empty text.
        """
        pieces: list[Tensor] = []
        owners = []
        for owner, clip in enumerate(clips):
            wave = torch.as_tensor(np.ascontiguousarray(clip, dtype=np.float32))
            for piece in cut_at_pauses(wave, self.sample_rate):
                if len(piece) >= FIRST_FRAME and not is_background(piece, self.sample_rate):
                    pieces.append(piece)
                    owners.append(owner)
        texts: list[list[str]] = [[] for _ in clips]
        if pieces:
            audio, lengths = collate(pieces)
            device = self.decoder.embed_tokens.weight.device
            features, frames = self.encoder(audio.to(device), lengths.to(device))
            limits = [token_limit(len(piece) / self.sample_rate) for piece in pieces]
            for owner, tokens in zip(owners, self.generate(features, frames, limits), strict=True):
                texts[owner].append(self.text(tokens))
        return [" ".join(text for text in parts if text) for parts in texts]

    @torch.no_grad()
    def generate(
        self, features: Float[Tensor, "batch dim frames"], frames: Int[Tensor, " batch"], limits: Sequence[int]
    ) -> list[list[int]]:
        """Decode greedily.

        Args:
            features: Of the encoder, or anything in their place.
            frames: Valid features of each item.
            limits: Most tokens of each item, see `token_limit`.

        Returns:
            Tokens of each item, without `BEGIN` and `END`. Where the same tokens were repeated without end, one
            repetition is kept.
        """
        memory = self.decoder.memory(features)
        valid = valid_steps(frames, features.shape[2])
        found: list[list[int]] = [[] for _ in limits]
        active = list(range(len(limits)))  # items that are still decoded; the batch shrinks as others end
        tokens = torch.full((len(limits), 1), BEGIN, device=features.device)
        cache: Cache | None = None
        while active:
            logits, cache = self.decoder(tokens, memory, valid, cache)
            best = logits[:, -1].argmax(dim=-1)
            going = []
            for row, token in enumerate(best.tolist()):
                item = active[row]
                if token != END:
                    found[item].append(token)
                loop = loop_length(found[item])
                if loop:
                    del found[item][len(found[item]) - (LOOP_REPEATS - 1) * loop :]
                if token != END and not loop and len(found[item]) < limits[item]:
                    going.append(row)
            tokens = best[:, None]
            if len(going) < len(active):
                kept = torch.tensor(going, dtype=torch.long, device=features.device)
                active = [active[row] for row in going]
                tokens = tokens[kept]
                memory = [(key[kept], value[kept]) for key, value in memory]
                cache = [(key[kept], value[kept]) for key, value in cache]
                valid = None if valid is None else valid[kept]
        return found

    def text(self, tokens: Sequence[int]) -> str:
        """Join tokens to a text; bytes that are no UTF-8 become U+FFFD, and special tokens nothing."""
        parts = []
        for token in tokens:
            piece = self.pieces[token]
            is_special = token < FIRST_BYTE or (
                token >= FIRST_PIECE and piece.startswith(b"<<") and piece.endswith(b">>")
            )
            parts.append(b"" if is_special else piece)
        return " ".join(b"".join(parts).decode(errors="replace").replace("\u2581", " ").split())


def token_limit(seconds: float) -> int:
    """Return the most tokens that a clip of this length may have."""
    return max(SHORTEST_LIMIT, math.ceil(TOKENS_PER_SECOND * seconds))


def loop_length(tokens: Sequence[int]) -> int:
    """Return how many tokens a list repeats `LOOP_REPEATS` times at its end; 0 where it does not."""
    for length in range(1, LONGEST_LOOP + 1):
        last = tokens[-length:]
        if len(tokens) >= LOOP_REPEATS * length and list(tokens[-LOOP_REPEATS * length :]) == list(last) * LOOP_REPEATS:
            return length
    return 0


def is_background(clip: Float[Tensor, " samples"], sample_rate: int) -> bool:
    """Whether a clip is digital silence, or faint noise of a steady level.

    The encoder's group norm raises faint noise to the level of speech, and the decoder then writes words.
    Faint speech is no background: its level varies.
    """
    levels = _levels_db(clip, sample_rate)
    levels = levels[levels > SILENCE_DBFS]
    if not len(levels):
        return True
    loudest = float(levels.max())
    return loudest < NOISE_DBFS and loudest - float(levels.quantile(0.1)) < NOISE_RANGE_DB


def cut_at_pauses(clip: Float[Tensor, " samples"], sample_rate: int) -> list[Float[Tensor, " samples"]]:
    """Cut a clip into pieces of at most `PIECE_SECONDS`, each at the quietest place of its last third."""
    longest = round(PIECE_SECONDS * sample_rate)
    search = round(CUT_SECONDS * sample_rate)
    window = round(LEVEL_SECONDS * sample_rate)
    pieces = []
    while len(clip) > longest:
        quietest = int(_levels_db(clip[longest - search : longest], sample_rate).argmin())
        end = longest - search + quietest * window + window // 2
        pieces.append(clip[:end])
        clip = clip[end:]
    return [*pieces, clip]


def _levels_db(clip: Float[Tensor, " samples"], sample_rate: int) -> Float[Tensor, " windows"]:
    """Compute the level in dBFS of each 100 ms of a clip."""
    window = round(LEVEL_SECONDS * sample_rate)
    whole = clip[: max(len(clip) // window, 1) * window]  # a shorter clip is one window
    power = whole.unflatten(0, (-1, min(window, len(whole)))).square().mean(dim=1)
    return 10 * torch.log10(power + 1e-12)
