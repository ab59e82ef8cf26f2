"""ASR probes: how much of the text a small recogniser can read off frozen token vectors (arXiv 2510.00981).

The paper does not give its recipe. This one follows SUPERB (arXiv 2105.01051): two bidirectional LSTM layers, CTC on
characters, greedy decoding. CTC needs an output per character, and 6.25 tokens per second are fewer than the 14
characters of a second of speech; so vectors are repeated to the frame grid, and every step has several outputs.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from tqdm import tqdm

from flexicodec.asr import CharacterConfig, Vocabulary, normalise, open_vocabulary
from flexicodec.asr.ctc import collapse
from flexicodec.corpus import Utterance
from flexicodec.corpus.bucketing import bucket_by_length
from flexicodec.evaluation.metrics.asr import ErrorCounts, character_errors, pool, word_errors
from flexicodec.evaluation.probes.features import ClipFeatures, Representation, Spread, extract
from flexicodec.merging import unmerge
from flexicodec.models.codec import Codec
from flexicodec.nn.transformer import Transformer, TransformerConfig
from flexicodec.statistics import Interval, Resamples, speaker_clusters

SMALLEST_DEVIATION = 1e-5  # for inputs that are constant, such as log durations of a codec that does not merge


@dataclass(frozen=True)
class FitConfig:
    """Training of a probe by AdamW.

    Attributes:
        batch_seconds: Speech in a batch, padding included.
        learning_rate: At its peak.
        warmup_share: Of all steps, over which the learning rate rises; it then falls to 0 along a cosine.
        grad_clip: Largest gradient norm.
        validation_share: Of the clips, held out to choose the epoch.
        seed: Of weights, order, dropout and held-out clips.
    """

    epochs: int = 30
    batch_seconds: float = 120.0
    learning_rate: float = 1e-3
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    grad_clip: float = 5.0
    validation_share: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; expected 1 or more")
        for name in ("warmup_share", "validation_share"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share between 0 and 1 (not percent)")


@dataclass(frozen=True)
class ASRProbeConfig:
    """A probe that transcribes.

    Attributes:
        network: "bilstm", or "transformer" with rotary positions.
        dim: Width of a layer, in each direction of an LSTM.
        num_layers: 4 are usual for a transformer.
        num_heads: Of a transformer.
        dropout: Between the layers of an LSTM, and before the outputs.
        spread: "frames" repeats each vector for its duration, "tokens" has one step per vector.
        log_durations: Append the logarithm of the duration to each vector.
        outputs_per_step: CTC outputs of each step; 4 a frame make 50 a second.
        alphabet: Characters of the texts, in lower case and with the space; "texts" takes those of the training clips.
            Clips with other characters are left out and counted.
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
    alphabet: str = CharacterConfig.alphabet
    resamples: int = 10_000

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "outputs_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")


@dataclass(frozen=True)
class Fit:
    """Mean loss and held-out character error rate of each epoch; the weights of `best_epoch` (from 1) were kept."""

    losses: tuple[float, ...]
    errors: tuple[float, ...]
    best_epoch: int


@dataclass(frozen=True)
class Transcript:
    """Reference and transcript of a test clip, with its errors."""

    id: str
    speaker: str | None
    reference: str
    text: str
    characters: ErrorCounts
    words: ErrorCounts


@dataclass(frozen=True)
class ASRProbeResult:
    """Error rates of a probe on one representation.

    Attributes:
        frame_rate: Vectors per second over the test clips.
        cer: Character errors per character of the test clips; the interval resamples speakers, then their clips.
        wer: Word errors per word.
        fitted: Training clips.
        held_out: Clips that chose the epoch.
        too_short: Training clips left out because their text needs more outputs than they have.
        unspelt: Training and test clips without a text in the characters of the alphabet.
        transcripts: One per test clip.
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


class Inputs:
    """Clips as a probe reads them: padded batches of vectors, by the settings of its config."""

    def __init__(self, features: ClipFeatures, config: ASRProbeConfig, device: torch.device | str = "cpu"):
        self.features = features
        self.config = config
        self.device = device
        self.dim = features.values[0].shape[1] + config.log_durations

    def steps(self, i: int) -> int:
        """Count the steps of a clip."""
        durations = self.features.durations[i]
        return int(durations.sum()) if self.config.spread == "frames" else len(durations)

    def batch(self, indices: Sequence[int]) -> tuple[Float[Tensor, "batch dim steps"], Int[Tensor, " batch"]]:
        """Pad clips to a batch; also return the valid steps of each."""
        # One row per clip, zeros behind the shorter ones; a duration of 0 marks padding.
        vectors = [torch.from_numpy(self.features.values[i]).float() for i in indices]
        frames = [torch.from_numpy(self.features.durations[i]).long() for i in indices]
        values = pad_sequence(vectors, batch_first=True).transpose(1, 2)
        durations = pad_sequence(frames, batch_first=True)
        if self.config.log_durations:
            values = torch.cat([values, durations.clamp(min=1).log()[:, None]], dim=1)
        values = values.to(self.device)
        durations = durations.to(self.device)
        if self.config.spread == "frames":
            return unmerge(values, durations), durations.sum(1)
        return values, (durations > 0).sum(1)

    def groups(self, indices: Sequence[int], random: np.random.Generator | None = None) -> list[list[int]]:
        """Group clips of similar length into batches; see `buckets`."""
        groups = bucket_by_length(self.features.seconds[list(indices)], self.config.fit.batch_seconds, random)
        return [[indices[i] for i in group] for group in groups]


class ASRProbe(nn.Module):
    """Network from vectors to log-probabilities of characters; a padded batch gives what each clip alone gives.

    `num_symbols` includes the blank.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, num_symbols: int, config: ASRProbeConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.entry: nn.Module = nn.Identity()
        self.body: nn.LSTM | Transformer
        # Bidirectional LSTMs concatenate both directions; transformers need vectors of their own width.
        layers = config.num_layers
        if config.network == "bilstm":
            width = 2 * config.dim
            dropout = config.dropout if layers > 1 else 0.0
            self.body = nn.LSTM(dim, config.dim, layers, batch_first=True, dropout=dropout, bidirectional=True)
        else:
            width = config.dim
            self.entry = nn.Linear(dim, width)
            self.body = Transformer(TransformerConfig(layers, width, config.num_heads, 4 * width, layer_scale_init=0.1))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, config.outputs_per_step * num_symbols)

    def fit_scale(self, batches: Iterable[tuple[Float[Tensor, "batch dim steps"], Int[Tensor, " batch"]]]) -> None:
        """Standardise inputs by the mean and deviation of the valid steps of batches."""
        # Float64 sums over all steps; one pass, since the vectors of a corpus need not fit into memory twice.
        total = torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(total)
        count = 0
        for values, lengths in batches:
            valid = torch.arange(values.shape[-1], device=values.device) < lengths[:, None]
            steps = values.transpose(1, 2)[valid].double()
            total += steps.sum(0)
            squares += steps.square().sum(0)
            count += len(steps)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        self.deviation.copy_(variance.sqrt().clamp(min=SMALLEST_DEVIATION))

    def forward(
        self, values: Float[Tensor, "batch dim steps"], lengths: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch outputs symbols"], Int[Tensor, " batch"]]:
        """Return log-probabilities and the number of valid outputs of each clip."""
        standardised = (values - self.mean[:, None]) / self.deviation[:, None]
        steps = self.entry(standardised.transpose(1, 2))
        if isinstance(self.body, nn.LSTM):
            # Packed, so that the backward direction starts at each clip's own end.
            packed = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
            hidden = pad_packed_sequence(self.body(packed)[0], batch_first=True)[0]
        else:
            hidden = self.body(steps.transpose(1, 2), lengths).transpose(1, 2)
        per_step = self.config.outputs_per_step
        outputs = self.head(self.dropout(self.norm(hidden)))
        outputs = rearrange(
            outputs, "batch steps (per_step symbols) -> batch (steps per_step) symbols", per_step=per_step
        )
        return F.log_softmax(outputs, dim=-1), lengths * per_step


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

    Training and test clips should be of different speakers. `Representation(continuous=True)` gives the upper bound;
    the default sizes need a GPU for some 100 hours; for `cache` see `extract`.
    """
    config = config or ASRProbeConfig()
    vocabulary = open_vocabulary(_characters(config.alphabet, train))
    # Clips whose text the characters cannot spell are left out and counted.
    fitted = [clip for clip in train if clip.text and vocabulary.encode(clip.text)]
    tested = [clip for clip in test if clip.text and vocabulary.encode(clip.text)]
    for name, clips, kept in (("train", train, fitted), ("test", test, tested)):
        if not kept:
            what = "a to z, spaces and apostrophes; alphabet=texts takes the characters of the training clips"
            if config.alphabet != CharacterConfig.alphabet:
                what = f"the characters {''.join(vocabulary.symbols)!r}"
            raise ValueError(f"none of {len(clips)} {name} clips has a text of {what}")

    # Encode once for all representations, then a probe each.
    train_features = extract(codec, fitted, representations, cache=cache, progress=progress)
    test_features = extract(codec, tested, representations, cache=cache, progress=progress)
    texts = [vocabulary.reference(clip.text or "") or "" for clip in fitted]
    results = []
    for representation, seen, unseen in zip(representations, train_features, test_features, strict=True):
        training = _Training(Inputs(seen, config, codec.device), texts, vocabulary)
        probe, log = training.run(progress)
        # The test clips are transcribed once, by the weights of the best epoch.
        rows = []
        transcripts = transcribe(probe, Inputs(unseen, config, codec.device), range(len(tested)), vocabulary)
        for clip, text in zip(tested, transcripts, strict=True):
            reference = vocabulary.reference(clip.text or "") or ""
            characters = character_errors(reference, text, language=clip.language)
            words = word_errors(reference, text, language=clip.language)
            rows.append(Transcript(clip.id, clip.known_speaker, reference, text, characters, words))
        results.append(
            ASRProbeResult(
                representation=representation,
                frame_rate=unseen.frame_rate,
                cer=_error_rate([row.characters for row in rows], tested, config),
                wer=_error_rate([row.words for row in rows], tested, config),
                fitted=len(training.fitted),
                held_out=len(training.held_out),
                too_short=len(fitted) - len(training.fitted) - len(training.held_out),
                unspelt=(len(train) - len(fitted), len(test) - len(tested)),
                log=log,
                transcripts=tuple(rows),
            )
        )
    return results


def _characters(alphabet: str, train: Sequence[Utterance]) -> CharacterConfig:
    """Make the vocabulary's config of an alphabet, or of the characters of the training texts."""
    if alphabet != "texts":
        return CharacterConfig(alphabet)
    found = {" "}.union(*(normalise(clip.text or "") for clip in train))
    return CharacterConfig("".join(sorted(found)))


class _Training:
    """Training of a probe on the clips whose text fits into their outputs; held-out clips choose the epoch."""

    def __init__(self, inputs: Inputs, texts: Sequence[str], vocabulary: Vocabulary):
        self.inputs = inputs
        self.texts = texts
        self.vocabulary = vocabulary
        self.config = inputs.config.fit
        self.codes = [vocabulary.encode(text) or [] for text in texts]
        # CTC has no path for a text that needs more outputs than its clip has.
        per_step = inputs.config.outputs_per_step
        usable = [i for i, codes in enumerate(self.codes) if outputs_needed(codes) <= inputs.steps(i) * per_step]
        if len(usable) < 2:
            raise ValueError(
                f"{len(usable)} of {len(texts)} texts fit into the outputs of their clips; raise outputs_per_step "
                f"({per_step}), or spread vectors to frames"
            )
        # At least one clip on either side.
        order = np.random.default_rng([self.config.seed, 1]).permutation(len(usable)).tolist()
        num_held_out = min(len(usable) - 1, max(1, round(self.config.validation_share * len(usable))))
        self.held_out = [usable[i] for i in sorted(order[:num_held_out])]
        self.fitted = [usable[i] for i in sorted(order[num_held_out:])]

    def run(self, progress: bool) -> tuple[ASRProbe, Fit]:
        """Return the probe with the weights of its best epoch, in eval mode; the caller's random state is kept."""
        device = torch.device(self.inputs.device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed)
            probe = ASRProbe(self.inputs.dim, len(self.vocabulary), self.inputs.config).to(device)
            probe.fit_scale(self.inputs.batch(group) for group in self.inputs.groups(self.fitted))
            log = self._fit(probe, progress)
        return probe, log

    def _fit(self, probe: ASRProbe, progress: bool) -> Fit:
        config = self.config
        optimizer = torch.optim.AdamW(probe.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        random = np.random.default_rng([config.seed, 2])
        losses: list[float] = []
        errors: list[float] = []
        best_epoch = 0
        with tqdm(range(config.epochs), desc="fit", unit="epoch", disable=not progress) as epochs:
            for epoch in epochs:
                losses.append(self._train_epoch(probe, optimizer, epoch, random))
                errors.append(self._held_out_error(probe))
                epochs.set_postfix(loss=f"{losses[-1]:.3f}", error=f"{errors[-1]:.3f}")
                if errors[-1] <= min(errors):  # of equally good epochs the last
                    best_epoch = epoch + 1
                    best = copy.deepcopy(probe.state_dict())
        probe.load_state_dict(best)
        return Fit(tuple(losses), tuple(errors), best_epoch)

    def _train_epoch(
        self, probe: ASRProbe, optimizer: torch.optim.Optimizer, epoch: int, random: np.random.Generator
    ) -> float:
        """Take a step for each batch, in random order; return the mean loss."""
        # Other neighbours in every epoch, in another order.
        batches = self.inputs.groups(self.fitted, random)
        losses = []
        probe.train()
        for number, index in enumerate(random.permutation(len(batches))):
            # The learning rate is a function of the share of all steps taken, this one included.
            taken = (epoch + (number + 1) / len(batches)) / self.config.epochs
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * _schedule(taken, self.config.warmup_share)
            loss = self._loss(probe, batches[index])
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} in epoch {epoch + 1}; lower learning_rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(probe.parameters(), self.config.grad_clip)
            optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))

    def _loss(self, probe: ASRProbe, clips: Sequence[int]) -> Float[Tensor, ""]:
        """CTC loss per character."""
        log_probs, outputs = probe(*self.inputs.batch(clips))
        codes = [torch.tensor(self.codes[i], device=self.inputs.device) for i in clips]
        counts = torch.tensor([len(each) for each in codes], device=self.inputs.device)
        targets = pad_sequence(codes, batch_first=True)
        # ctc_loss takes outputs first: [outputs, batch, symbols].
        return F.ctc_loss(log_probs.transpose(0, 1), targets, outputs, counts, reduction="sum") / counts.sum()

    def _held_out_error(self, probe: ASRProbe) -> float:
        """Character error rate of the held-out clips."""
        probe.eval()
        transcripts = transcribe(probe, self.inputs, self.held_out, self.vocabulary)
        references = [self.texts[i] for i in self.held_out]
        return pool(map(character_errors, references, transcripts)).rate


def outputs_needed(codes: Sequence[int]) -> int:
    """Count the CTC outputs of a text: one per symbol, and a blank between equal neighbours.

    >>> outputs_needed([3, 3, 5])
    4
    """
    return len(codes) + sum(a == b for a, b in zip(codes, codes[1:], strict=False))


@torch.no_grad()
def transcribe(probe: ASRProbe, inputs: Inputs, indices: Sequence[int], vocabulary: Vocabulary) -> list[str]:
    """Transcribe clips by greedy CTC: the likeliest symbol of every output, collapsed."""
    # By index, since batches go by length.
    texts = {}
    for group in inputs.groups(indices):
        log_probs, outputs = probe(*inputs.batch(group))
        for i, path, count in zip(group, log_probs.argmax(dim=-1).tolist(), outputs.tolist(), strict=True):
            texts[i] = vocabulary.decode(collapse(path[:count]))
    return [texts[i] for i in indices]


def _schedule(taken: float, warmup: float) -> float:
    """Share of the peak learning rate after a share of all steps: a linear rise, then half a cosine to 0."""
    if taken < warmup:
        return taken / warmup
    return 0.5 * (1 + math.cos(math.pi * (taken - warmup) / (1 - warmup)))


def _error_rate(counts: Sequence[ErrorCounts], clips: Sequence[Utterance], config: ASRProbeConfig) -> Interval:
    """Pool errors over clips, with an interval over speakers and their clips."""
    # A ratio of sums, never a mean of rates.
    errors = np.array([each.errors for each in counts], dtype=float)
    lengths = np.array([each.length for each in counts], dtype=float)
    clusters = speaker_clusters([clip.known_speaker for clip in clips], [clip.id for clip in clips])
    return Resamples.sample(len(clips), clusters, config.resamples, seed=config.fit.seed).ratio(errors, lengths)
