"""How much of what is said a small recogniser can read off frozen tokens (ASR probing, arXiv 2510.00981).

The paper does not give its recipe. This one follows SUPERB (arXiv 2105.01051): two bidirectional LSTM layers, CTC on
characters, greedy transcripts. CTC needs an output for every character, and 6.25 tokens per second are fewer than the
14 characters of a second of speech; so vectors are repeated to the frame grid, and every step gives several outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from flexicodec.asr import CharacterConfig, Vocabulary, open_vocabulary
from flexicodec.asr.ctc import collapse
from flexicodec.corpus import Utterance
from flexicodec.evaluation.metrics.asr import ErrorCounts, character_errors, pool, word_errors
from flexicodec.evaluation.probes.features import ClipFeatures, Representation, extract
from flexicodec.evaluation.probes.fitting import Fit, FitConfig, Inputs, Spread, Standardise, fit, hold_out
from flexicodec.models.codec import Codec
from flexicodec.nn.transformer import Transformer, TransformerConfig
from flexicodec.statistics import Interval, bootstrap, clusters


@dataclass(frozen=True)
class ASRProbeConfig:
    """A probe that writes down what is said.

    Attributes:
        network: "bilstm", or "transformer" with rotary positions.
        dim: Width of a layer, in each direction of an LSTM.
        num_layers: Layers; 4 are usual for a transformer.
        num_heads: Of a transformer.
        dropout: Between the layers of an LSTM, and before the outputs.
        spread: "frames" repeats each vector for as many frames as it stands for, "tokens" takes a step a vector.
        log_durations: Whether the logarithm of the duration is one more value of each vector.
        outputs_per_step: CTC outputs of each step; 4 a frame make 50 a second.
        fit: How it is fitted.
        resamples: Of the bootstrap.
    """

    network: Literal["bilstm", "transformer"] = "bilstm"
    dim: int = 1024
    num_layers: int = 2
    num_heads: int = 8
    dropout: float = 0.2
    spread: Spread = "frames"
    log_durations: bool = True
    outputs_per_step: int = 4
    fit: FitConfig = field(default_factory=FitConfig)
    resamples: int = 10_000

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "outputs_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True)
class Transcript:
    """What a probe made of a test clip.

    Attributes:
        id: Of the clip.
        speaker: Of the clip.
        reference: What is said.
        text: What was read off the tokens.
        characters: Errors in characters.
        words: Errors in words.
    """

    id: str
    speaker: str | None
    reference: str
    text: str
    characters: ErrorCounts
    words: ErrorCounts


@dataclass(frozen=True)
class ASRProbeResult:
    """How well a probe reads one representation.

    Attributes:
        representation: What it saw.
        frame_rate: Vectors per second over the test clips.
        cer: Character errors per character of the test clips; the interval draws speakers, then their clips.
        wer: Word errors per word.
        fitted: Clips of the fit; `held_out` chose the epoch.
        held_out: See `fitted`.
        too_short: Clips left out of the fit because their text needs more outputs than they have.
        unspelt: Clips of the fit and of the test that have no text, or one beyond a to z, space and apostrophe.
        log: How the fit went.
        transcripts: Of the test clips.
    """

    representation: Representation
    frame_rate: float
    cer: Interval
    wer: Interval
    fitted: int
    held_out: int
    too_short: int
    unspelt: tuple[int, int]
    log: Fit
    transcripts: tuple[Transcript, ...]


class ASRProbe(nn.Module):
    """Vectors in, log-probabilities of characters out; a padded batch gives what each clip alone gives.

    Args:
        dim: Values of a step.
        num_symbols: The blank included.
        config: Sizes.
    """

    def __init__(self, dim: int, num_symbols: int, config: ASRProbeConfig):
        super().__init__()
        self.config = config
        self.standardise = Standardise(dim)
        self.body: nn.LSTM | Transformer
        if config.network == "bilstm":
            dropout = config.dropout if config.num_layers > 1 else 0.0
            self.entry: nn.Module = nn.Identity()
            self.body = nn.LSTM(
                dim, config.dim, config.num_layers, batch_first=True, dropout=dropout, bidirectional=True
            )
            width = 2 * config.dim
        else:
            size = TransformerConfig(
                config.num_layers, config.dim, config.num_heads, 4 * config.dim, layer_scale_init=0.1
            )
            self.entry, self.body, width = nn.Linear(dim, config.dim), Transformer(size), config.dim
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, config.outputs_per_step * num_symbols)

    def forward(
        self, values: Float[Tensor, "batch dim steps"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        """Return log-probabilities and the valid outputs of each clip."""
        steps = self.entry(self.standardise(values).transpose(1, 2))
        if isinstance(self.body, nn.LSTM):
            packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
            hidden = pad_packed_sequence(self.body(packed)[0], batch_first=True)[0]
        else:
            hidden = self.body(steps.transpose(1, 2), lengths).transpose(1, 2)
        outputs = self.head(self.dropout(self.norm(hidden)))
        per_step = self.config.outputs_per_step
        return F.log_softmax(outputs.unflatten(-1, (per_step, -1)).flatten(1, 2), dim=-1), lengths * per_step


def probe_asr(
    codec: Codec,
    train: Sequence[Utterance],
    test: Sequence[Utterance],
    representations: Sequence[Representation],
    config: ASRProbeConfig | None = None,
    *,
    cache: str | Path | None = None,
    progress: bool = False,
) -> list[ASRProbeResult]:
    """Fit a probe to each representation of the training clips, and count its errors on the test clips.

    Args:
        codec: The codec, frozen.
        train: Clips with texts.
        test: Clips with texts, of other speakers.
        representations: What probes see; with `Representation(continuous=True)` among them for the bound.
        config: Sizes and settings; the defaults need a GPU for anything like 100 hours.
        cache: See `extract`.
        progress: Show bars.

    Raises:
        ValueError: No clip has a text that can be spelt, or that fits into its outputs; or see `extract`.
        ImportError: jiwer is not installed.
    """
    reading = _Reading(train, test, config or ASRProbeConfig(), codec.device, progress)
    seen = [extract(codec, clips, representations, cache=cache, progress=progress) for clips in reading.clips]
    return [reading.probe(*each) for each in zip(representations, *seen, strict=True)]


class _Reading:
    """What all probes of a call share: the clips whose texts can be spelt, on both sides, and the settings."""

    def __init__(
        self,
        train: Sequence[Utterance],
        test: Sequence[Utterance],
        config: ASRProbeConfig,
        device: torch.device,
        progress: bool,
    ):
        self.config, self.device, self.progress = config, device, progress
        self.vocabulary = open_vocabulary(CharacterConfig())
        self.clips = [[u for u in side if u.text and self.vocabulary.encode(u.text)] for side in (train, test)]
        self.unspelt = len(train) - len(self.clips[0]), len(test) - len(self.clips[1])
        for name, given, kept in zip(("train", "test"), (train, test), self.clips, strict=True):
            if not kept:
                raise ValueError(f"none of {len(given)} {name} clips has a text of a to z, spaces and apostrophes")
        self.texts, self.references = ([self.vocabulary.reference(u.text or "") or "" for u in s] for s in self.clips)
        self.codes = [self.vocabulary.encode(text) or [] for text in self.texts]

    def probe(self, representation: Representation, train: ClipFeatures, test: ClipFeatures) -> ASRProbeResult:
        """Fit one probe and test it."""
        config = self.config
        inputs, tested = (Inputs(each, config.spread, config.log_durations, self.device) for each in (train, test))
        possible = self._possible(inputs)
        fitted, held_out = ([possible[i] for i in part] for part in hold_out(len(possible), config.fit))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(config.fit.seed)
            probe, log = self._fit(inputs, fitted, held_out)
        heard = transcribe(probe, tested, range(len(tested)), self.vocabulary, config.fit.batch_seconds)
        rows = tuple(
            Transcript(clip.id, clip.speaker, said, text, character_errors(said, text), word_errors(said, text))
            for clip, said, text in zip(self.clips[1], self.references, heard, strict=True)
        )
        cer, wer = error_rates(rows, config.resamples, config.fit.seed)
        return ASRProbeResult(
            representation=representation,
            frame_rate=test.frame_rate,
            cer=cer,
            wer=wer,
            fitted=len(fitted),
            held_out=len(held_out),
            too_short=len(self.codes) - len(possible),
            unspelt=self.unspelt,
            log=log,
            transcripts=rows,
        )

    def _possible(self, inputs: Inputs) -> list[int]:
        """List the clips whose text fits into their outputs."""
        per_step = self.config.outputs_per_step
        possible = [i for i, codes in enumerate(self.codes) if outputs_needed(codes) <= inputs.steps(i) * per_step]
        if len(possible) < 2:
            raise ValueError(
                f"{len(possible)} of {len(self.codes)} texts fit into the outputs of their clips; raise "
                f"outputs_per_step ({per_step}), or spread vectors to frames"
            )
        return possible

    def _fit(self, inputs: Inputs, fitted: list[int], held_out: list[int]) -> tuple[ASRProbe, Fit]:
        """Make a probe and find its weights."""
        seconds = self.config.fit.batch_seconds
        probe = ASRProbe(inputs.dim, len(self.vocabulary), self.config).to(self.device)
        probe.standardise.fit(inputs.batch(group) for group in inputs.groups(fitted, seconds))

        def loss(group: list[int]) -> Tensor:
            log_probs, outputs = probe(*inputs.batch(group))
            codes = [torch.tensor(self.codes[i], device=self.device) for i in group]
            counts = torch.tensor([len(each) for each in codes], device=self.device)
            targets = pad_sequence(codes, batch_first=True)
            return F.ctc_loss(log_probs.transpose(0, 1), targets, outputs, counts, reduction="sum") / counts.sum()

        def error() -> float:
            heard = transcribe(probe, inputs, held_out, self.vocabulary, seconds)
            said = [self.texts[i] for i in held_out]
            return pool(map(character_errors, said, heard)).rate

        def groups(random: np.random.Generator) -> list[list[int]]:
            return inputs.groups(fitted, seconds, random)

        return probe, fit(probe, loss, error, groups, self.config.fit, progress=self.progress)


def outputs_needed(codes: Sequence[int]) -> int:
    """Count the CTC outputs that a text takes: one a symbol, and a blank between equal neighbours.

    >>> outputs_needed([3, 3, 5])
    4
    """
    return len(codes) + sum(a == b for a, b in zip(codes, codes[1:], strict=False))


@torch.no_grad()
def transcribe(
    probe: ASRProbe, inputs: Inputs, indices: Sequence[int], vocabulary: Vocabulary, batch_seconds: float
) -> list[str]:
    """Write down clips: the likeliest symbol at every output, collapsed (greedy CTC)."""
    texts = {}
    for group in inputs.groups(indices, batch_seconds):
        log_probs, outputs = probe(*inputs.batch(group))
        for i, path, count in zip(group, log_probs.argmax(dim=-1).tolist(), outputs.tolist(), strict=True):
            texts[i] = vocabulary.decode(collapse(path[:count]))
    return [texts[i] for i in indices]


def error_rates(transcripts: Sequence[Transcript], resamples: int, seed: int) -> tuple[Interval, Interval]:
    """Pool character and word errors over clips, with intervals over speakers, or clips where there is one speaker.

    Errors and lengths are summed as `metrics.asr.pool` does; test clips of a probe all have words.
    """

    def rate(counts: Sequence[ErrorCounts]) -> Interval:
        return bootstrap(
            lambda errors, lengths: errors.sum() / lengths.sum(),
            [each.errors for each in counts],
            [each.length for each in counts],
            clusters=clusters([row.speaker for row in transcripts], [row.id for row in transcripts]),
            resamples=resamples,
            seed=seed,
        )

    return rate([row.characters for row in transcripts]), rate([row.words for row in transcripts])
