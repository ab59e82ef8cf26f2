"""Speech with texts for the trainer: its clips, tokens of a batch at sampled rates, and what they are decoded to.

Manifests go through the codec's encoders once. Their features are kept in a file, from which every step makes tokens at
new rates. Folders of `flexicodec tokenize` have the tokens already, at the rates that were chosen then.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.corpus import TokenDataset, Utterance, tokens
from flexicodec.corpus.audio_reading import read_utterance
from flexicodec.corpus.manifest import check_ids
from flexicodec.merging import cosine_similarities
from flexicodec.models.flexicodec.model import Features, FlexiCodec
from flexicodec.models.tts.characters import CharacterConfig, CharacterFrontend, collect_alphabet, spell
from flexicodec.models.tts.text import ENGLISH
from flexicodec.models.tts.token_lm import LMBatch
from flexicodec.tokens import Tokens
from flexicodec.training.config import CalibratedRange, RateConfig
from flexicodec.training.data import read_manifests
from flexicodec.training.data.clip_cache import ClipCache
from flexicodec.training.rate_sampling import ALL_CODES, UNMERGED, merge_items, sample_rates
from flexicodec.training.tts.config import SpeechDataConfig
from flexicodec.tts.speech_models import check_codec, code_space, feature_latents

PURPOSE = 5  # separates the choice among a folder's rates from other random numbers of the same seed, step and item

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeechBatch:
    """Tokens of a batch with their texts, and what they are decoded to.

    Attributes:
        lm: Texts and tokens.
        latents: What the codec's decoder takes; None where no decoder is trained.
        frames: Frames of each item.
    """

    lm: LMBatch
    latents: Float[Tensor, "batch dim frames"] | None
    frames: Int[Tensor, " batch"]


class Speech(ABC):
    """Clips with texts, a `ClipSource` of one block.

    Attributes:
        seconds: Durations of the clips that are used.
        ids: Their texts.
        text: The front end's config, with an alphabet.
    """

    seconds: Float[np.ndarray, " clips"]
    ids: list[list[int]]
    text: CharacterConfig

    def blocks(self, epoch: int) -> "Iterator[Speech]":
        """Yield the only block."""
        yield self

    def batch(self, clips: Sequence[int], items: Sequence[int], *, seed: int, step: int) -> SpeechBatch:
        """Make a batch: a function of the clips, the numbers of the items, the seed and the step."""
        codes, durations, latents = self.encode(clips, items, seed=seed, step=step)
        counts = (durations > 0).sum(1)
        rates = counts.cpu() / torch.from_numpy(self.seconds[list(clips)]).float()
        letters = [torch.tensor(self.ids[clip]) for clip in clips]
        lm = LMBatch(
            torch.nn.utils.rnn.pad_sequence(letters, batch_first=True),
            torch.tensor([len(each) for each in letters]),
            codes,
            durations,
            counts,
            rates,
        )
        return SpeechBatch(lm.to(codes.device), latents, durations.sum(1))

    @abstractmethod
    def encode(
        self, clips: Sequence[int], items: Sequence[int], *, seed: int, step: int
    ) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"], Float[Tensor, "batch dim frames"] | None]:
        """Return semantic codes, durations and, where a decoder is trained, latents of clips."""

    def keep(self, texts: Sequence[str | None], seconds: Sequence[float], data: SpeechDataConfig) -> list[int]:
        """Choose the clips to use, and set `ids`, `seconds` and, where it is missing, the alphabet.

        Args:
            texts: Of all clips.
            seconds: Of all clips.
            data: Which durations are used.

        Returns:
            Their numbers. Others are logged, by reason.
        """
        spelt = [spell(text, self.text) if text and text.strip() else "" for text in texts]
        if self.text.alphabet is None:
            self.text = replace(self.text, alphabet=collect_alphabet(spelt))
        front_end = CharacterFrontend(self.text)
        kept = []
        ids = []
        left_out = dict.fromkeys(("without text", "too short", "too long", "with unknown characters"), 0)
        for number, (text, length) in enumerate(zip(texts, seconds, strict=True)):
            if not spelt[number]:
                left_out["without text"] += 1
            elif length < data.min_seconds:
                left_out["too short"] += 1
            elif length > data.max_seconds:
                left_out["too long"] += 1
            else:
                try:
                    ids.append(front_end.encode(text or "", ENGLISH))
                    kept.append(number)
                except ValueError:
                    left_out["with unknown characters"] += 1
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        log.info("%d of %d clips are used; left out: %s", len(kept), len(texts), reasons)
        if not kept:
            raise ValueError(f"none of {len(texts)} clips is left to train on: {reasons}")
        self.ids = ids
        self.seconds = np.array([seconds[number] for number in kept])
        return kept


class EncodingCache(ClipCache):
    """What a codec makes of whole clips at any rate: features of both encoders, and latents; in half precision."""

    kind = b"FXSPEECH"
    option = "feature_cache"
    dtype = "<f2"

    def __init__(self, utterances: Sequence[Utterance], cache: str | os.PathLike[str], codec: FlexiCodec) -> None:
        def rows(utterance: Utterance) -> np.ndarray:
            audio = torch.from_numpy(read_utterance(utterance, codec.sample_rate))
            features = codec.features(audio)
            assert features.acoustic is not None
            with torch.no_grad():
                latents = feature_latents(codec, features)
            return torch.cat([features.semantic, features.acoustic, latents], dim=1)[0].mT.half().cpu().numpy()

        dim = codec.config.acoustic.latent_dim
        self.widths = (codec.semantic_encoder.dim, dim, dim)
        super().__init__(utterances, cache, {"codec": codec.decoder_fingerprint}, rows, sum(self.widths))

    def is_readable(self, index: int) -> bool:
        """Tell whether a clip has features."""
        return str(index) not in self._unreadable

    def read(self, index: int) -> Float[Tensor, "frames width"]:
        """Read the features of a clip."""
        return torch.from_numpy(self._clip(index, 0, None).astype(np.float32))


class ManifestSpeech(Speech):
    """Clips of manifests, tokenised at rates that are sampled at every step.

    Args:
        utterances: Clips, with texts.
        cache: File of features; written if missing.
        codec: The codec.
        data: Which clips are used.
        text: The front end; without an alphabet it gets that of the texts.
        rates: How items are merged.
        with_latents: Whether a decoder is trained.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        cache: str | os.PathLike[str],
        codec: FlexiCodec,
        data: SpeechDataConfig,
        text: CharacterConfig,
        rates: RateConfig | None = None,
        with_latents: bool = True,
    ) -> None:
        self.codec = codec
        self.text = text
        self.with_latents = with_latents
        self.rates = default_rates(codec) if rates is None else rates
        if isinstance(self.rates.threshold_range, CalibratedRange):
            raise ValueError("rates.threshold_range is to be calibrated; expected two thresholds here")
        self.cache = EncodingCache(utterances, cache, codec)
        texts = [
            utterance.text if self.cache.is_readable(number) else None for number, utterance in enumerate(utterances)
        ]
        self.indices = self.keep(texts, [utterance.duration for utterance in utterances], data)

    @torch.no_grad()
    def encode(
        self, clips: Sequence[int], items: Sequence[int], *, seed: int, step: int
    ) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"], Float[Tensor, "batch dim frames"] | None]:
        """See `Speech.encode`."""
        codec = self.codec
        features, latents = self.features(clips)
        assert isinstance(self.rates.threshold_range, tuple)
        sampled = sample_rates(
            self.rates, ALL_CODES, self.rates.threshold_range, codec.num_codebooks, items, seed=seed, step=step
        )
        durations = merge_items(sampled.policies, features, codec.sample_rate, codec.max_duration)
        quantized = codec.quantize_semantic(features.semantic, durations, with_latents=False)
        return quantized.codes[:, 0], durations, latents if self.with_latents else None

    def features(self, clips: Sequence[int]) -> tuple[Features, Float[Tensor, "batch dim frames"]]:
        """Read features and latents of clips as a batch on the codec's device."""
        rows = [self.cache.read(self.indices[clip]) for clip in clips]
        lengths = torch.tensor([len(row) for row in rows], device=self.codec.device)
        joined = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.codec.device).mT
        semantic, acoustic, latents = joined.split(self.cache.widths, dim=1)
        samples = np.round(self.seconds[list(clips)] * self.codec.sample_rate).astype(np.int64)
        features = Features(
            semantic=semantic,
            acoustic=acoustic,
            similarities=cosine_similarities(semantic, lengths),
            lengths=lengths,
            audio_lengths=torch.from_numpy(samples).to(self.codec.device),
        )
        return features, latents


class TokenSpeech(Speech):
    """Clips of a folder of tokens, at a rate of the folder that is sampled for each item.

    Latents are those of the rate with most tokens that has acoustic codes.

    Args:
        folder: Of `flexicodec tokenize`.
        codec: The codec that made it.
        data: Which clips are used; its manifests, if any, give the texts.
        text: The front end; without an alphabet it gets that of the texts.
        with_latents: Whether a decoder is trained.

    Raises:
        ValueError: Tokens of another codec, units that are missing, or no acoustic codes for a decoder.
    """

    def __init__(
        self, folder: str | Path, codec: FlexiCodec, data: SpeechDataConfig, text: CharacterConfig, with_latents: bool
    ) -> None:
        self.codec = codec
        self.text = text
        dataset = TokenDataset.open(folder)
        check_codec(codec, dataset.format.fingerprint, str(folder))
        longest = code_space(codec).max_duration
        if dataset.format.max_duration is None or dataset.format.max_duration > longest:
            raise ValueError(
                f"{folder} may have tokens of {dataset.format.max_duration or 'any number of'} frames; this codec's "
                f"have {longest} at most"
            )
        # All rates, which hold the same clips
        self.choices = [list(tokens(folder, choice.name)) for choice in dataset.choices]
        names = [str(clip.info["id"]) for clip in self.choices[0]]
        for choice, clips in zip(dataset.choices, self.choices, strict=True):
            if [str(clip.info["id"]) for clip in clips] != names:
                raise ValueError(f"{folder} has other clips at {choice.name} than at {dataset.choices[0].name}")
        self.finest: list[Tokens] | None = None
        if with_latents:
            detailed = [clips for clips in self.choices if clips[0].num_codebooks]
            if not detailed:
                raise ValueError(
                    f"{folder} has no acoustic codes, of which the decoder's targets are made; tokenize with some "
                    "codebooks, or leave 'flow' out of trained"
                )
            self.finest = max(detailed, key=lambda clips: sum(int(clip.token_lengths[0]) for clip in clips))
        texts = folder_texts(dataset, data)
        seconds = [float(clip.seconds[0]) for clip in self.choices[0]]
        self.indices = self.keep([texts.get(name) for name in names], seconds, data)

    @torch.no_grad()
    def encode(
        self, clips: Sequence[int], items: Sequence[int], *, seed: int, step: int
    ) -> tuple[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"], Float[Tensor, "batch dim frames"] | None]:
        """See `Speech.encode`."""
        numbers = [self.indices[clip] for clip in clips]
        chosen = []
        for number, item in zip(numbers, items, strict=True):
            random = np.random.default_rng([seed, step, int(item), PURPOSE])
            chosen.append(self.choices[int(random.integers(len(self.choices)))][number].keep(acoustic=0))
        batch = Tokens.cat(chosen).to(self.codec.device)
        assert batch.semantic is not None
        latents = None
        if self.finest is not None:
            fine = Tokens.cat([self.finest[number] for number in numbers]).to(self.codec.device)
            assert fine.semantic is not None
            vectors = self.codec.dequantize(fine.semantic, fine.acoustic, fine.token_lengths)
            latents = self.codec.unmerger(vectors, fine.durations)
        return batch.semantic, batch.durations.long(), latents


def open_speech(
    data: SpeechDataConfig,
    codec: FlexiCodec,
    text: CharacterConfig,
    cache: str | os.PathLike[str],
    rates: RateConfig | None,
    with_latents: bool,
) -> Speech:
    """Open the clips that a config names."""
    if data.tokens is not None:
        if rates is not None:
            raise ValueError(f"rates are sampled for manifests; {data.tokens} has the rates it was made with")
        return TokenSpeech(data.tokens, codec, data, text, with_latents)
    return ManifestSpeech(read_manifests(data.manifest), cache, codec, data, text, rates, with_latents)


def default_rates(codec: FlexiCodec) -> RateConfig:
    """Return the rates of a codec's own policy, as `encode(frame_rate=...)` uses it."""
    merging = codec.config.merging
    return UNMERGED if merging is None else RateConfig(policies={merging.policy: 1.0})


def folder_texts(dataset: TokenDataset, data: SpeechDataConfig) -> dict[str, str | None]:
    """Return the texts of a folder's clips by their ids: of the manifests, or those that the folder stores."""
    if data.manifest:
        utterances = read_manifests(data.manifest)
        check_ids(utterances)
        return {utterance.id: utterance.text for utterance in utterances}
    found: dict[str, str | None] = {}
    for _, table in dataset.tables(dataset.choices[0], ["id", "text"]):
        found.update(zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True))
    return found
