"""Text to speech with a reference voice: text to tokens, at one of the rates the model knows, and tokens to audio."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from flexicodec.models.codec import Codec
from flexicodec.models.tts.ar import SAME_THRESHOLD, ARBatch, AutoregressiveTTS
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig
from flexicodec.models.tts.generation import GenerationConfig, generate
from flexicodec.models.tts.text import ENGLISH, TextFrontend
from flexicodec.models.tts.token_decoder import TokenDecoder, VoicePrompt
from flexicodec.tokens import Tokens
from flexicodec.tts.voices import Synthesis, Voice, VoiceSource, read_voice

NOMINAL_RATES = {1.0: 12.5, 0.91: 8.33, 0.867: 6.25, 0.86: 6.25}  # tokens per second of thresholds, on average (paper)
RATE_TOLERANCE = 0.05  # of a frame rate that is asked for, relative to these
PAUSE = ", "  # between the reference's text and the new one, as in training

GENERATION = GenerationConfig(min_tokens=1)
SAMPLING = FlowSamplingConfig()


class TextToSpeech:
    """Speaks with released weights.

    Args:
        ar: Text to tokens.
        codec: The codec whose tokens these are.
        front_end: Text to ids.
        decoder: Tokens to audio; None decodes with the codec, in a voice that is not the reference's.

    Raises:
        ValueError: The models do not belong together.
    """

    def __init__(
        self, ar: AutoregressiveTTS, codec: Codec, front_end: TextFrontend, decoder: TokenDecoder | None = None
    ) -> None:
        # All of them have to speak of the same codes, and of the same time.
        size = codec.format.semantic_codebook_size
        sizes = {"language model": ar.config.codebook_size}
        if decoder is not None:
            sizes["decoder"] = decoder.flow.config.codebook_size
            mel_rate = decoder.mel.sample_rate / decoder.mel.hop
            made = codec.base_frame_rate * decoder.flow.config.frames_per_code
            if abs(made - mel_rate) > 1e-6:
                raise ValueError(
                    f"{decoder.flow.config.frames_per_code} mel frames per frame of this codec are {made:g} Hz; the "
                    f"decoder's are {mel_rate:g} Hz"
                )
        for name, theirs in sizes.items():
            if theirs != size:
                raise ValueError(f"the {name} was trained on {theirs} semantic codes and the codec has {size}")
        self.ar = ar.eval()
        self.codec = codec
        self.front_end = front_end
        self.decoder = None if decoder is None else decoder.eval()

    @property
    def sample_rate(self) -> int:
        """Hz of the audio it makes."""
        return self.codec.output_sample_rate if self.decoder is None else self.decoder.sample_rate

    @property
    def frame_rates(self) -> dict[float, float | None]:
        """Thresholds that the model knows, and the tokens per second that each gives on average, as far as known."""
        return {threshold: NOMINAL_RATES.get(threshold) for threshold in self.ar.config.thresholds}

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> "TextToSpeech":
        """Move to a device; `dtype` is that of the language model and the decoder, the codec keeps its own."""
        for module in (self.ar, self.decoder):
            if module is not None:
                module.to(device=device, dtype=dtype)
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
        threshold: float | None = None,
        language: str = ENGLISH,
        seed: int = 0,
        generation: GenerationConfig = GENERATION,
        sampling: FlowSamplingConfig = SAMPLING,
    ) -> Synthesis:
        """Speak a text.

        Args:
            text: What to say.
            voice: A recording to imitate, as a file, samples or a `Voice`; None for any voice.
            voice_text: What is said in it. Without, only the decoder imitates it.
            sample_rate: Hz of the samples; None for the codec's.
            frame_rate: Tokens per second, within 5 % of one that the model knows (`frame_rates`).
            threshold: Instead of `frame_rate`, one of the thresholds it knows. Default: the last of them.
            language: Of the text.
            seed: The same seed gives the same tokens and audio.
            generation: How tokens are generated; its seed is `seed`.
            sampling: How mel frames are sampled.

        Returns:
            Audio at `sample_rate` of this object, and the tokens.

        Raises:
            ValueError: An empty or too long text, letters or a language that the front end does not read, a reference
                that is silent, too short or of another rate or codec, or a rate that the model does not know.
        """
        # The rate is refused before anything is encoded.
        chosen = self.choose_threshold(frame_rate, threshold)
        if voice is not None and not isinstance(voice, Voice):
            voice = self.encode_voice(voice, voice_text, sample_rate=sample_rate, threshold=chosen)
        tokens = self.generate(text, voice, threshold=chosen, language=language, seed=seed, config=generation)
        return Synthesis(self.decode(tokens, voice, seed=seed, sampling=sampling), tokens)

    def choose_threshold(self, frame_rate: float | None = None, threshold: float | None = None) -> float:
        """Return the merging threshold that stands for a rate; see `synthesize`."""
        known = self.frame_rates
        options = ", ".join(f"threshold {each:g} ({rate or '?'} Hz)" for each, rate in known.items())
        if not known:
            raise ValueError("this model was trained without a rate")
        if frame_rate is not None and threshold is not None:
            raise ValueError(f"frame_rate is {frame_rate} and threshold {threshold}; give one of them")
        if frame_rate is None:
            wanted = list(known)[-1] if threshold is None else threshold
            for each in known:
                if abs(each - wanted) < SAME_THRESHOLD:
                    return each
            raise ValueError(f"threshold is {threshold}; this model was trained with {options}")
        for each, rate in known.items():
            if rate is not None and abs(frame_rate / rate - 1) <= RATE_TOLERANCE:
                return each
        raise ValueError(f"frame_rate is {frame_rate} Hz; this model was trained with {options}")

    def encode_voice(
        self,
        voice: VoiceSource,
        text: str | None = None,
        *,
        sample_rate: int | None = None,
        frame_rate: float | None = None,
        threshold: float | None = None,
    ) -> Voice:
        """Encode a reference at the rate of the speech to be made, once for any number of texts; see `synthesize`."""
        # Read, and refuse what no voice can be taken from.
        chosen = self.choose_threshold(frame_rate, threshold)
        audio = read_voice(voice, self.codec.sample_rate, text, sample_rate=sample_rate)
        tokens = self.codec.encode(audio, threshold=chosen, num_codebooks=0)
        return Voice(audio, tokens, text, threshold=chosen)

    def generate(
        self,
        text: str,
        voice: Voice | None = None,
        *,
        threshold: float,
        language: str = ENGLISH,
        seed: int = 0,
        config: GenerationConfig = GENERATION,
    ) -> Tokens:
        """Generate the tokens of a text; see `synthesize`."""
        if not text.strip():
            raise ValueError("the text is empty")
        device = self.ar.token_embedding.weight.device
        empty = torch.zeros(1, 0, dtype=torch.long, device=device)
        codes = durations = empty
        if voice is not None:
            self._check_voice(voice, threshold)
            # Text and tokens of the reference go in front of the new text, or neither does.
            if voice.text is not None:
                text = voice.text + PAUSE + text
                assert voice.tokens.semantic is not None
                codes = voice.tokens.semantic.to(device)
                durations = voice.tokens.durations.to(device)
        ids = torch.tensor([self.front_end.encode(text, language)], device=device)
        lengths = [torch.tensor([each.shape[1]], device=device) for each in (ids, codes)]
        prompts = ARBatch(ids, lengths[0], codes, lengths[1], durations, threshold)
        made = generate(self.ar, prompts, replace(config, seed=seed, max_duration=self.codec.format.max_duration))
        if made.tokens.shape[1] == 0:
            raise ValueError("the model ended before its first token; min_tokens=1 prevents that")
        info = {"threshold": threshold, "seed": seed, "reached_limit": bool(made.reached_limit[0])}
        return Tokens(semantic=made.tokens, durations=made.durations, format=self.codec.format, info=info)

    def decode(
        self, tokens: Tokens, voice: Voice | None = None, *, seed: int = 0, sampling: FlowSamplingConfig = SAMPLING
    ) -> Float[Tensor, "1 samples"]:
        """Decode tokens of this model's codec in a voice.

        Args:
            tokens: One clip; its acoustic codes, if any, are not used by the decoder.
            voice: The voice; None lets the decoder choose one.
            seed: Of the decoder's noise.
            sampling: How mel frames are sampled.

        Raises:
            ValueError: Tokens, or a voice, of another codec, or more than one clip.
        """
        self.codec.check_tokens(tokens)
        # Prompts of a batch would have to be equally long.
        if len(tokens) != 1:
            raise ValueError(f"{len(tokens)} clips; decode them one by one: tokens[0], tokens[1], ...")
        if self.decoder is None:
            return self.codec.decode(tokens.keep(acoustic=0))
        device = self.decoder.flow.code_embedding.weight.device
        prompt = None
        if voice is not None:
            self.codec.check_tokens(voice.tokens)
            audio = voice.audio[0].to(device)
            prompt = VoicePrompt(audio, self.codec.sample_rate, _frame_codes(voice.tokens, device))
        return self.decoder(_frame_codes(tokens, device), prompt, sampling, seed)

    def _check_voice(self, voice: Voice, threshold: float) -> None:
        """Refuse a voice that was encoded by another codec or at another rate."""
        self.codec.check_tokens(voice.tokens)
        if voice.threshold is None or abs(voice.threshold - threshold) >= SAME_THRESHOLD:
            raise ValueError(
                f"the voice was encoded with threshold {voice.threshold} and the text is to be spoken with "
                f"{threshold:g}; encode it again with that rate"
            )


def _frame_codes(tokens: Tokens, device: torch.device) -> Tensor:
    """Repeat each token's semantic code for its frames."""
    clip = tokens[0]
    assert clip.semantic is not None
    return clip.semantic[0].repeat_interleave(clip.durations[0]).to(device)
