"""Tokens to audio: flow matching to mel frames behind those of a reference voice, then a vocoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from flexicodec.models.tts.config import RELEASED_MEL, MelConfig
from flexicodec.models.tts.flow_matching import FlowMatchingDecoder
from flexicodec.models.tts.flow_sampling import SETTINGS, FlowSamplingConfig, sample
from flexicodec.models.tts.mel import log_mel, resample_sinc
from flexicodec.models.tts.vocos import Vocos


@dataclass(frozen=True)
class VoicePrompt:
    """A reference voice.

    Attributes:
        audio: Its samples.
        sample_rate: Hz.
        frame_codes: Its semantic codes, one per codec frame.
    """

    audio: Float[Tensor, " samples"]
    sample_rate: int
    frame_codes: Int[Tensor, " frames"]


class TokenDecoder(nn.Module):
    """Semantic codes of one clip to audio at `sample_rate`.

    Args:
        flow: Codes to mel frames.
        vocoder: Mel frames to audio.
        mel: How mel frames are computed.
    """

    def __init__(self, flow: FlowMatchingDecoder, vocoder: Vocos, mel: MelConfig = RELEASED_MEL) -> None:
        super().__init__()
        if flow.config.output_dim != vocoder.config.num_mels:
            raise ValueError(
                f"the decoder makes {flow.config.output_dim} mel bands and the vocoder takes {vocoder.config.num_mels}"
            )
        self.flow = flow
        self.vocoder = vocoder
        self.mel = mel

    @property
    def sample_rate(self) -> int:
        """Hz of the audio."""
        return self.mel.sample_rate

    def forward(
        self,
        frame_codes: Int[Tensor, " frames"],
        prompt: VoicePrompt | None = None,
        config: FlowSamplingConfig = SETTINGS,
        seed: int = 0,
    ) -> Float[Tensor, "1 samples"]:
        """Decode.

        Args:
            frame_codes: Semantic codes, one per codec frame: each token's code as often as its duration says.
            prompt: The voice; None lets the decoder choose one.
            config: Settings of the sampler.
            seed: Of its noise.

        Returns:
            As many samples as the frames stand for.
        """
        codes, given, frames = self.align(frame_codes, prompt, compatible=config.compatible)
        # Drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, frames, self.flow.config.output_dim, generator=generator).to(codes.device)
        return self.decode_mel(sample(self.flow, codes, noise, given, config=config))

    def align(
        self, frame_codes: Int[Tensor, " frames"], prompt: VoicePrompt | None, *, compatible: bool = False
    ) -> tuple[Int[Tensor, "1 all_frames"], Float[Tensor, "1 prompt mels"] | None, int]:
        """Put the codes of prompt and target in a row.

        The prompt has as many frames as both its codes and its audio cover, so that the target's frames begin where its
        codes do. Upstream (`compatible`) takes all of the prompt's mel frames and shifts the target by the difference,
        up to 80 ms.

        Returns:
            Codes of both, mel frames of the prompt, and the number of the target's mel frames.
        """
        per_code = self.flow.config.frames_per_code
        if prompt is None:
            return frame_codes[None], None, per_code * len(frame_codes)
        # codes          |  c1  |  c2  |  c3  |          codecs count frames in their own way,
        # mel frames     |aaaabbbbccc                    so that either may be the longer one
        mel = self.prompt_mel(prompt)
        codes = prompt.frame_codes
        if not compatible:
            covered = min(len(codes), mel.shape[1] // per_code)
            codes = codes[:covered]
            mel = mel[:, : per_code * covered]
        codes = torch.cat([codes, frame_codes])[None]
        return codes, mel, per_code * codes.shape[1] - mel.shape[1]

    def prompt_mel(self, prompt: VoicePrompt) -> Float[Tensor, "1 frames mels"]:
        """Compute the prompt's mel frames."""
        # The filter of training, not a better one: the decoder has learnt its spectrum.
        audio = resample_sinc(prompt.audio[None].float(), prompt.sample_rate, self.mel.sample_rate)
        return log_mel(audio, self.mel).mT

    @torch.no_grad()
    def decode_mel(self, mel: Float[Tensor, "batch frames mels"]) -> Float[Tensor, "batch samples"]:
        """Turn mel frames into audio."""
        return self.vocoder(mel.mT)
