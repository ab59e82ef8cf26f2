"""Train text to speech: a language model of tokens and a flow-matching decoder, on the same batches.

Each has its optimiser and running mean. A step weights all tokens, and all frames, equally over processes and passes.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from flexicodec import hub
from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.tts.flow_matching import FlowDraws
from flexicodec.models.tts.latent_flow import LatentFlow, frame_fields
from flexicodec.models.tts.token_lm import LMBatch, TokenLM
from flexicodec.parallel import default_settings
from flexicodec.training.data.sampler import ExampleSpan, plan_utterance_batches
from flexicodec.training.logging import Progress
from flexicodec.training.optim import OptimizedModule, make_average, update_average
from flexicodec.training.trainer import Trainer
from flexicodec.training.tts.config import SpeechTrainingConfig
from flexicodec.training.tts.data import Speech, SpeechBatch, open_speech
from flexicodec.tts.speech_models import SpeechModels, load_speech_models

FEATURE_FILE = "features.cache"
VALIDATION_FILE = "validation-features.cache"
PURPOSE = 6  # separates a pass's random numbers from others of the same seed
VALIDATION_STEP = 2**31  # of the random numbers of validation, which are the same every time

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedBatch:
    """Which clips a batch has; they are read where the codec is."""

    places: list[ExampleSpan]
    lengths: Int[Tensor, " batch"]  # samples


@dataclass(frozen=True)
class Prepared:
    """A batch on the device, with what a step draws for it.

    Attributes:
        lm: Texts and tokens; the rates of some are not said.
        fields: Code, place and duration of each frame.
        latents: Standardised; None where no decoder is trained.
        frames: Frames of each item.
        draws: Times, noise and prompts.
    """

    lm: LMBatch
    fields: Int[Tensor, "batch frames 3"]
    latents: Float[Tensor, "batch frames dim"] | None
    frames: Int[Tensor, " batch"]
    draws: FlowDraws | None

    @property
    def counts(self) -> Float[Tensor, " 3"]:
        """Codes with the ends, durations, and frames that count in the loss of the decoder."""
        tokens = int(self.lm.token_lengths.sum())
        behind = 0 if self.draws is None else int((self.frames - self.draws.prompt_lengths).sum())
        return torch.tensor([tokens + len(self.frames), tokens, behind], dtype=torch.float32)


@default_settings()
def train(config: SpeechTrainingConfig) -> Path:
    """Train until `config.steps`, or resume the run in `config.output`; return the folder of the model."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        return SpeechTrainer(config).train()


class SpeechTrainer(Trainer):
    """Training of text to speech."""

    config: SpeechTrainingConfig
    saves_validated = True

    def __init__(self, config: SpeechTrainingConfig) -> None:
        super().__init__(config, config.accumulation, config.validate_every, config.keep_best)
        codec = hub.load(config.codec, device=self.device)
        model = config.model.fitted(cast(FlexiCodec, codec))  # refuses other families
        self.codec = cast(FlexiCodec, codec).requires_grad_(False)
        self.sample_rate = codec.sample_rate

        # The alphabet of the training texts is that of the run, whatever the manifest has later.
        if self.resumed is not None:
            model = replace(model, text=replace(model.text, alphabet=self.resumed.state()["alphabet"]))
        elif config.init_from is not None and model.text.alphabet is None:
            model = replace(model, text=load_speech_models(Path(config.init_from), codec)[0].config.text)
        with self.accelerator.main_process_first():  # the first process writes the cache
            self.speech = self._open(config.data.feature_cache, FEATURE_FILE, model.text)
            self.validation = self._open_validation()

        torch.manual_seed(config.seed)
        model = self._with_warm_start(replace(model, text=self.speech.text))
        self.models = SpeechModels(model)
        if self.resumed is None:
            self._initialise()
        self.models.to(self.device).train()
        optims = {"lm": config.lm_optim, "flow": config.flow_optim}
        self.parts: dict[str, OptimizedModule] = {}
        self.averages: dict[str, AveragedModel | None] = {}
        for name in config.trained:
            network = getattr(self.models, name)
            self.parts[name] = OptimizedModule(network, optims[name], config.steps)
            self.averages[name] = make_average(network, optims[name].ema_decay)
        if self.resumed is not None:
            self._load()
        for part in self.parts.values():
            part.module = self.accelerator.prepare_model(part.bare)
        self._reset_metrics()

    def _open(self, cache: str | None, default: str, text: Any) -> Speech:
        config = self.config
        file = Path(config.output) / default if cache is None else cache
        return open_speech(config.data, self.codec, text, file, config.rates, "flow" in config.trained)

    def _open_validation(self) -> Speech | None:
        """Open the held-out speech, spelt as the training texts."""
        data = self.config.data
        if data.validation is None:
            return None
        held_out = replace(data, manifest=(data.validation,), tokens=None)
        if data.tokens is not None:
            held_out = replace(data, manifest=(), tokens=data.validation)
        file = Path(self.config.output) / VALIDATION_FILE
        return open_speech(
            held_out, self.codec, self.speech.text, file, self.config.rates, "flow" in self.config.trained
        )

    # -------------------------------------------------------------------------------------------------- first weights

    def _with_warm_start(self, model: Any) -> Any:
        """Take the config of the transformer from the model to start from."""
        source = self.config.warm_start
        if source is None or model.lm is None:
            return model
        from transformers import AutoConfig

        held = AutoConfig.from_pretrained(source).to_diff_dict()
        held.pop("dtype", None)  # weights are trained in float32
        backbone = replace(model.lm.backbone, transformers=held)
        return replace(model, lm=replace(model.lm, backbone=backbone))

    @torch.no_grad()
    def _initialise(self) -> None:
        """Set first weights, and the statistics of latents."""
        config = self.config
        models = self.models
        if config.warm_start is not None and models.lm is not None:
            from transformers import AutoModel

            source = AutoModel.from_pretrained(config.warm_start)
            source.set_input_embeddings(None)
            models.lm.backbone.load_state_dict(source.state_dict())
        if "flow" in config.trained:
            assert models.flow is not None
            clips = np.linspace(0, len(self.speech.ids), config.statistics_clips, endpoint=False).astype(int)
            vectors = []
            for clip in dict.fromkeys(clips.tolist()):
                latents = self.speech.batch([clip], [clip], seed=config.seed, step=VALIDATION_STEP).latents
                assert latents is not None
                vectors.append(latents[0].cpu())
            models.flow.fit(torch.cat(vectors, dim=1))
        if config.init_from is not None:
            before, _ = load_speech_models(Path(config.init_from), self.codec)
            if before.config != models.config:
                raise ValueError(f"{config.init_from} has other sizes than the config: {before.config}")
            models.load_state_dict(before.state_dict())

    def _load(self) -> None:
        """Load everything from the checkpoint, exactly."""
        assert self.resumed is not None
        self.models.load_state_dict(self.resumed.weights("models") or {})
        state = self.resumed.state()
        for name, part in self.parts.items():
            part.optimizer.load_state_dict(state[name])
            average = self.averages[name]
            if average is not None:
                average.load_state_dict(self.resumed.weights(f"{name}-average") or {})

    # -------------------------------------------------------------------------------------------------------- batches

    def batches(self, start: int) -> Iterator[PlannedBatch]:
        """Plan this process's batches."""
        world = self.accelerator.num_processes
        seconds = self.config.data.batch_seconds
        plans = plan_utterance_batches(cast(Any, self.speech), self.config.seed, seconds, start=start * world)
        while True:
            shares = list(islice(plans, world))
            places = shares[self.accelerator.process_index]
            lengths = [round(self.speech.seconds[place.clip] * self.sample_rate) for place in places]
            yield PlannedBatch(places, torch.tensor(lengths))

    def prepare(self, batch: SpeechBatch, generator: torch.Generator, rate_dropout: float = 0.0) -> Prepared:
        """Draw rates that are not said, times, noise and prompts, and put all on the device."""
        unsaid = torch.rand(len(batch.frames), generator=generator) < rate_dropout
        lm = batch.lm.to(self.device)
        lm = replace(lm, frame_rate=lm.frame_rate.masked_fill(unsaid.to(self.device), 0.0))
        frames = batch.frames.to(self.device)
        latents = None
        draws = None
        if batch.latents is not None:
            flow = self.models.flow
            assert flow is not None
            latents = flow.standardise(batch.latents.to(self.device))
            draws = flow.draw(frames, latents.shape[1], generator)
        return Prepared(lm, frame_fields(lm.codes, lm.durations), latents, frames, draws)

    # ------------------------------------------------------------------------------------------------------- the step

    def update(self, batches: Sequence[PlannedBatch]) -> None:
        """Do one optimiser step of both networks."""
        config = self.config
        accelerator = self.accelerator
        # Seeded by the number of their plan, random numbers need no state for exact resume, and do not depend on how
        # plans are spread over passes and processes.
        seeds = []
        prepared = []
        for index, planned in enumerate(batches):
            plan = (self.step * len(batches) + index) * accelerator.num_processes + accelerator.process_index
            draws, dropout = np.random.SeedSequence([config.seed, plan, PURPOSE]).generate_state(2).tolist()
            seeds.append(dropout)
            clips = [place.clip for place in planned.places]
            items = [place.item for place in planned.places]
            batch = self.speech.batch(clips, items, seed=config.seed, step=self.step)
            prepared.append(self.prepare(batch, torch.Generator().manual_seed(draws), config.rate_dropout))
        counts = torch.stack([each.counts for each in prepared]).sum(0).to(self.device)
        scale = accelerator.num_processes / accelerator.reduce(counts, "sum").clamp(min=1.0)
        weights = scale * scale.new_tensor([1.0, config.duration_weight, 1.0])

        finite = True
        for name, part in self.parts.items():
            part.set_learning_rate(self.step)
            for index, each in enumerate(prepared):
                torch.manual_seed(seeds[index])
                with self._sync_gradients(part.module, last=index == len(prepared) - 1):
                    nats = self.nats(name, part.module, each)
                    total = (nats * weights).sum()
                    accelerator.backward(total)
                finite = finite and bool(total.isfinite())
                self.sums[0] += nats.detach().cpu()
        for name, part in self.parts.items():
            finite, norm = part.optimizer_step(accelerator, finite)
            self.norms[name].append(norm)
        self.sums[1] += counts.cpu()
        if finite:
            for name, average in self.averages.items():
                if average is not None:
                    update_average(average, self.parts[name].bare)
        self._check_finite(finite)

    def nats(self, name: str, network: nn.Module, batch: Prepared) -> Float[Tensor, " 3"]:
        """Sum the losses of a network over a batch: of codes and durations in nats, and of the decoder's frames."""
        if name == "lm":
            codes, durations = network(batch.lm)
            return torch.stack([codes.sum(), durations.sum(), torch.zeros_like(codes[0])])
        assert batch.draws is not None
        found = network(batch.fields, batch.latents, batch.frames, batch.draws)
        total = found.loss * found.counted.sum()
        return torch.stack([torch.zeros_like(total), torch.zeros_like(total), total])

    # --------------------------------------------------------------------------------------- logs, checkpoints, export

    def _reset_metrics(self) -> None:
        self.sums = torch.zeros(2, 3)  # losses, and what they are sums over
        self.norms: dict[str, list[float]] = {name: [] for name in self.parts}

    def scores(self, sums: Float[Tensor, "2 3"]) -> dict[str, float]:
        """Return the mean of each loss that is trained."""
        codes, durations, frames = (sums[0] / sums[1].clamp(min=1.0)).tolist()
        row = {"codes": codes, "durations": durations} if "lm" in self.parts else {}
        if "lm" in self.parts:
            row["bits_per_token"] = (sums[0, 0] + sums[0, 1]).item() / max(1.0, sums[1, 1].item()) / np.log(2)
        return row | ({"flow": frames} if "flow" in self.parts else {})

    def log_metrics(self, progress: Progress) -> None:
        """Log the metrics since the last call."""
        sums = self.accelerator.reduce(self.sums.to(self.device), "sum").cpu()
        row = {f"loss/{name}": value for name, value in self.scores(sums).items()}
        for name, part in self.parts.items():
            row[f"grad_norm/{name}"] = float(np.mean(self.norms[name]))
            row[f"learning_rate/{name}"] = part.learning_rate
        progress.log(row, self.step)
        self._reset_metrics()

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], float] | None:
        """Compute the losses of held-out clips, shared among processes, always with the same random numbers."""
        if self.validation is None:
            return None
        count = min(self.config.data.validation_clips, len(self.validation.ids))
        clips = np.linspace(0, len(self.validation.ids), count, endpoint=False).astype(int).tolist()
        sums = torch.zeros(2, 3)
        networks = {name: self._averaged(name).eval() for name in self.parts}
        for clip in clips[self.accelerator.process_index :: self.accelerator.num_processes]:
            batch = self.validation.batch([clip], [clip], seed=0, step=VALIDATION_STEP)
            prepared = self.prepare(batch, torch.Generator().manual_seed(clip))
            for name, network in networks.items():
                sums[0] += self.nats(name, network, prepared).cpu()
            sums[1] += prepared.counts
        self.models.train()
        scores = self.scores(self.accelerator.reduce(sums.to(self.device), "sum").cpu())
        total = scores.get("codes", 0.0) + scores.get("durations", 0.0) + scores.get("flow", 0.0)
        return {f"validation/{name}": value for name, value in scores.items()}, total

    def _averaged(self, name: str) -> TokenLM | LatentFlow:
        """Return the network to validate and export."""
        average = self.averages[name]
        return cast(TokenLM | LatentFlow, self.parts[name].bare if average is None else average.module)

    def weights_and_state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all weights, the state of the optimisers, and the alphabet."""
        weights = {"models": self.models.state_dict()}
        state: dict[str, Any] = {"alphabet": self.speech.text.alphabet}
        for name, part in self.parts.items():
            state[name] = part.optimizer.state_dict()
            average = self.averages[name]
            if average is not None:
                weights[f"{name}-average"] = average.state_dict()
        return weights, state

    def finish(self, folder: Path) -> None:
        """Unwrap the networks, and write the averaged ones for `flexicodec.load_tts`."""
        for name, part in self.parts.items():
            part.module = part.bare
            setattr(self.models, name, self._averaged(name))
        if self.accelerator.is_main_process:
            self.models.save(folder, self.codec)
