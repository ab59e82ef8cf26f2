"""Text to speech with a model of our own: any frame rate of its codec, and audio from the codec's decoder."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.flexicodec.model import FlexiCodec
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig, sample
from flexicodec.models.tts.generation import GenerationConfig
from flexicodec.models.tts.latent_flow import frame_fields
from flexicodec.models.tts.text import ENGLISH, TextFrontend
from flexicodec.models.tts.token_generation import SETTINGS, generate_tokens
from flexicodec.models.tts.token_lm import LMBatch
from flexicodec.tokens import Tokens
from flexicodec.tts.speech_models import SpeechModels, code_space, decode_latents, feature_latents
from flexicodec.tts.voices import Synthesis, Voice, VoiceSource, read_voice

FRAME_RATES = (3.0, 12.5)  # Hz that can be asked for, for a grid of 12.5 Hz
SAMPLING = FlowSamplingConfig(guidance=1.0)


class CodecTTS:
    """Speaks at a chosen frame rate.

    Args:
        models: Text to tokens, and tokens to latents.
        codec: The codec whose tokens these are.
        front_end: Text to ids; None takes the model's own.

    Raises:
        ValueError: The models do not belong together.
    """

    def __init__(self, models: SpeechModels, codec: FlexiCodec, front_end: TextFrontend | None = None) -> None:
        if models.config.space != code_space(codec):
            raise ValueError(f"the model is for {models.config.space}, and the codec has {code_space(codec)}")
        self.models = models.eval()
        self.codec = codec
        self.front_end = front_end or models.front_end
        self.dtype = torch.float32

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it makes."""
        return self.codec.sample_rate

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "CodecTTS":
        """Move to a device; `dtype` is that of the transformers, codec and embeddings keep theirs."""
        self.models.to(device=device)
        if dtype is not None:
            self.dtype = dtype
            if self.models.lm is not None:  # read once a token, so its weights are stored in that type
                self.models.lm.backbone.to(dtype=dtype)
        if device is not None:
            self.codec.to(device)
        return self

    def synthesize(
        self,
        text: str,
        *,
        voice: Voice | VoiceSource | None = None,
        voice_text: str | None = None,
        sample_rate: int | None = None,
        frame_rate: float | None = None,
        language: str = ENGLISH,
        seed: int = 0,
        generation: GenerationConfig = SETTINGS,
        sampling: FlowSamplingConfig = SAMPLING,
    ) -> Synthesis:
        """Speak a text.

        Args:
            text: What to say.
            voice: A recording to imitate, as a file, samples or a `Voice`; None for any voice.
            voice_text: What is said in it. Without, only the decoder imitates it.
            sample_rate: Hz of the samples; None for the codec's.
            frame_rate: Tokens per second, 3 to 12.5; None leaves it to the model.
            language: Of the text.
            seed: The same seed gives the same tokens and audio.
            generation: How tokens are generated; its seed is `seed`.
            sampling: How latents are sampled.

        Returns:
            Audio at `sample_rate` of this object, and the tokens. `tokens.info` has `frame_rate`, the one that was
            asked for, `seed` and `reached_limit`; `tokens.frame_rates` are those that came out.

        Raises:
            ValueError: An empty or too long text, letters that were not in training, a reference that is silent, too
                short or of another rate or codec, or a rate out of range.
        """
        self._check_rate(frame_rate)
        if voice is not None and not isinstance(voice, Voice):
            voice = self.encode_voice(voice, voice_text, sample_rate=sample_rate, frame_rate=frame_rate)
        settings = replace(generation, seed=seed)
        (tokens,) = self.generate([text], [voice], frame_rate=frame_rate, language=language, config=settings)
        return Synthesis(self.decode(tokens, voice, seed=seed, sampling=sampling), tokens)

    def encode_voice(
        self,
        voice: VoiceSource,
        text: str | None = None,
        *,
        sample_rate: int | None = None,
        frame_rate: float | None = None,
    ) -> Voice:
        """Encode a reference at the rate of the speech to be made, once for any number of texts; see `synthesize`."""
        self._check_rate(frame_rate)
        if text is not None and text.strip():
            self.front_end.encode(text)  # refuses letters before anything is encoded
        audio = read_voice(voice, self.codec.sample_rate, text, sample_rate=sample_rate)
        flow = self.models.flow
        features = self.codec.features(audio, acoustic=True)
        tokens = self.codec.tokenize(features, frame_rate=frame_rate, num_codebooks=0)
        with torch.no_grad():
            latents = None if flow is None else feature_latents(self.codec, features)
        return Voice(audio, tokens, text, frame_rate=frame_rate, latents=latents)

    def generate(
        self,
        texts: Sequence[str],
        voices: Sequence[Voice | None] | None = None,
        *,
        frame_rate: float | Sequence[float | None] | None = None,
        language: str = ENGLISH,
        config: GenerationConfig = SETTINGS,
    ) -> list[Tokens]:
        """Generate the tokens of several texts side by side; each is what it would be alone.

        Args:
            texts: What to say.
            voices: One for each text; None for any voices.
            frame_rate: One for all, or one for each; see `synthesize`.
            language: Of all texts.
            config: Settings, with a seed for all or one for each.
        """
        lm = self.models.lm
        if lm is None:
            raise ValueError("this model has no language model; it only decodes tokens")
        voices = voices or [None] * len(texts)
        rates = list(frame_rate) if isinstance(frame_rate, Sequence) else [frame_rate] * len(texts)
        if not texts or len(voices) != len(texts) or len(rates) != len(texts):
            raise ValueError(
                f"{len(texts)} texts, {len(voices)} voices and {len(rates)} rates; expected as many of each"
            )
        # Text and tokens of a reference go in front of the new text, or neither does.
        ids = []
        codes = []
        durations = []
        for text, voice, rate in zip(texts, voices, rates, strict=True):
            self._check_rate(rate)
            spelt = self.front_end.encode(text, language)
            prompt = torch.zeros(2, 0, dtype=torch.long)
            if voice is not None:
                self._check_voice(voice, rate)
                if voice.text is not None:
                    spelt = self.front_end.encode(f"{voice.text} {text}", language)
                    clip = voice.tokens[0].to("cpu")
                    assert clip.semantic is not None
                    prompt = torch.cat([clip.semantic, clip.durations])
            ids.append(torch.tensor(spelt))
            codes.append(prompt[0])
            durations.append(prompt[1])
        prompts = LMBatch(
            *_padded(ids), *_padded(codes)[:1], *_padded(durations), torch.tensor([rate or 0.0 for rate in rates])
        ).to(lm.device)
        made = generate_tokens(lm, prompts, config)

        seeds = config.seed if isinstance(config.seed, Sequence) else [config.seed] * len(texts)
        results = []
        for row, length in enumerate(made.lengths.tolist()):
            if length == 0:
                raise ValueError(
                    f"the model ended before the first token of {texts[row]!r}; min_tokens=1 prevents that"
                )
            info = {"frame_rate": rates[row], "seed": seeds[row], "reached_limit": bool(made.reached_limit[row])}
            item = slice(row, row + 1)
            kept = made.tokens[item, :length], made.durations[item, :length]
            results.append(Tokens(semantic=kept[0], durations=kept[1], format=self.codec.format, info=info))
        return results

    @torch.no_grad()
    def decode(
        self, tokens: Tokens, voice: Voice | None = None, *, seed: int = 0, sampling: FlowSamplingConfig = SAMPLING
    ) -> Float[Tensor, "1 samples"]:
        """Decode tokens of this model's codec in a voice.

        Args:
            tokens: One clip; its acoustic codes, if any, are not used.
            voice: The voice; None lets the decoder choose one.
            seed: Of the decoder's noise.
            sampling: How latents are sampled.

        Raises:
            ValueError: Tokens, or a voice, of another codec, or more than one clip.
        """
        self.codec.check_tokens(tokens)
        if len(tokens) != 1:  # prompts of a batch would have to be equally long
            raise ValueError(f"{len(tokens)} clips; decode them one by one: tokens[0], tokens[1], ...")
        flow = self.models.flow
        if flow is None:
            return self.codec.decode(tokens.keep(acoustic=0))
        device = flow.mean.device
        fields = _fields(tokens, device)
        # Drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, fields.shape[1], flow.config.output_dim, generator=generator).to(device)
        prompt = None
        if voice is not None:
            self.codec.check_tokens(voice.tokens)
            assert voice.latents is not None
            prompt = flow.standardise(voice.latents.to(device))
            fields = torch.cat([_fields(voice.tokens, device), fields], dim=1)
        with torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            frames = sample(flow, fields, noise, prompt, config=sampling)
        lengths = torch.tensor([frames.shape[1]], device=device)
        return decode_latents(self.codec, flow.restore(frames), lengths)

    def _check_rate(self, frame_rate: float | None) -> None:
        lowest, highest = FRAME_RATES
        if frame_rate is not None and not lowest <= frame_rate <= highest:
            raise ValueError(f"frame_rate is {frame_rate} Hz; expected {lowest:g} to {highest:g}, or None")

    def _check_voice(self, voice: Voice, frame_rate: float | None) -> None:
        """Refuse a voice that was encoded by another codec or at another rate."""
        self.codec.check_tokens(voice.tokens)
        if voice.frame_rate != frame_rate:
            raise ValueError(
                f"the voice was encoded with frame_rate {voice.frame_rate} and the text is to be spoken with "
                f"{frame_rate}; encode it again with that rate"
            )


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad rows with 0, and return their lengths."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])


def _fields(tokens: Tokens, device: torch.device) -> Tensor:
    clip = tokens[0].to(device)
    assert clip.semantic is not None
    return frame_fields(clip.semantic, clip.durations.long())
