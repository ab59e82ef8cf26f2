"""Models of transformers that hear raw audio (HuBERT, WavLM, wav2vec 2.0 ...), over clips of different lengths.

Padding must not change what they hear, so a batch is padded only for models that mask it throughout. Those whose first
convolution is normalised over time (`feat_extract_norm` "group", the base sizes) would normalise the padding too, and
hear their clips one by one; so does WavLM, whose attention warns that torch will stop taking its masks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flexicodec.evaluation.sources import opening

UNUSED = ("masked_spec_embed",)  # of training only, and absent from some checkpoints


class Listener:
    """A model over raw audio and what prepares its input.

    Args:
        what: What it is to be, for errors.
        source: Folder or hub id.
        model_class: Its class in transformers, by name.
        device: Where it runs.

    Raises:
        ValueError: The files cannot be had or read, or lack weights that the class needs.
    """

    def __init__(self, what: str, source: str, model_class: str, device: torch.device):
        import transformers

        with opening(what, source):
            self.extractor = transformers.AutoFeatureExtractor.from_pretrained(source)
            self.model = open_exactly(getattr(transformers, model_class), source).to(device).eval()
        self.sample_rate = int(self.extractor.sampling_rate)
        self.least = receptive_field(self.model.config)

    @property
    def alone(self) -> bool:
        """Whether clips have to be heard one by one."""
        return self.model.config.feat_extract_norm == "group" or self.model.config.model_type == "wavlm"

    def batches(
        self, clips: Sequence[np.ndarray]
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch samples"], Int[Tensor, "batch samples"] | None]]:
        """Yield which clips are heard together, their prepared samples, and a mask if some of them are padding.

        Clips shorter than the model's first frame are left out.
        """
        heard = [index for index, clip in enumerate(clips) if len(clip) >= self.least]
        for together in [[index] for index in heard] if self.alone else [heard] if heard else []:
            ready = self.extractor(
                [clips[index] for index in together],
                sampling_rate=self.sample_rate,
                padding=True,
                return_attention_mask=True,
                return_tensors="pt",
            ).to(self.model.device)
            padded = len({len(clips[index]) for index in together}) > 1
            yield together, ready["input_values"], ready["attention_mask"] if padded else None

    def frames(self, samples: int) -> int:
        """Count the frames of a clip."""
        return int(self.model._get_feat_extract_output_lengths(torch.tensor(samples)))


def open_exactly(model_class: Any, source: str) -> Any:
    """Open a transformers model in float32, and refuse to make up weights that its files lack.

    Raises:
        ValueError: Names what is missing.
    """
    model, report = model_class.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    missing = sorted(key for key in report["missing_keys"] if not key.endswith(UNUSED))
    if missing:
        raise ValueError(
            f"no weights for {', '.join(missing[:3])}{' ...' * (len(missing) > 3)}; is this a pretrained model, "
            f"not fine-tuned as {model_class.__name__}?"
        )
    return model


def receptive_field(config: Any) -> int:
    """Count the samples of the first frame."""
    samples = 1
    for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
        samples = (samples - 1) * stride + kernel
    return samples
