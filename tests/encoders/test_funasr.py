"""Our SAN-M blocks against funasr's own SenseVoice encoder, the one used to train the released weights."""

import contextlib
import io
import logging
import sys
import warnings

import torch

from flexicodec.encoders.base import SanmConfig
from flexicodec.encoders.sanm import SanmEncoder
from flexicodec.models.flexicodec.convert_upstream import convert, load_exactly

FRAMES = 50  # 3 s


@contextlib.contextmanager
def as_it_was():
    """Import funasr without its notices and warnings, and restore logging and the search path."""
    root, path = logging.getLogger(), list(sys.path)
    level, handlers = root.level, list(root.handlers)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    root.setLevel(level)
    root.handlers[:] = handlers
    sys.path[:] = path


def funasr_encoder(config, tp_blocks):
    """Make funasr's encoder with random weights of a useful size."""
    with as_it_was():
        from funasr.models.sense_voice.model import SenseVoiceEncoderSmall

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            encoder = SenseVoiceEncoderSmall(
                input_size=config.front_end.dim,
                output_size=config.dim,
                attention_heads=config.num_heads,
                linear_units=config.feedforward_dim,
                num_blocks=config.num_layers,
                tp_blocks=tp_blocks,
                kernel_size=config.kernel_size,
                input_layer="pe",
                normalize_before=True,
            )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):  # norms start with none
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return encoder.eval()


def compare(config, tp_blocks):
    """Return max |ours - funasr's| / max |funasr's| after the main blocks, and both outputs."""
    theirs = funasr_encoder(config, tp_blocks)
    generator = torch.Generator().manual_seed(2)
    prompt = torch.randn(16, config.front_end.dim, generator=generator)
    features = torch.randn(1, FRAMES, config.front_end.dim, generator=generator)

    with torch.device("meta"):
        ours = SanmEncoder(config)
    shapes = {f"semantic_encoder.{key}": tuple(value.shape) for key, value in ours.state_dict().items()}
    shapes = {key: shape for key, shape in shapes.items() if ".front_end." not in key}
    state = {f"semantic_model.encoder.{key}": value for key, value in theirs.state_dict().items()}
    converted, left = convert(shapes, state | {"semantic_model.embed.weight": prompt}, num_convnext_layers=0)
    assert all(".tp_" in key for key in left)
    nothing = {
        "front_end.shift": torch.zeros(config.front_end.dim),
        "front_end.scale": torch.ones(config.front_end.dim),
    }
    load_exactly(ours, {key.removeprefix("semantic_encoder."): value for key, value in converted.items()} | nothing)
    ours.eval()

    outputs = []
    hook = theirs.after_norm.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    sequence = torch.cat([prompt[list(config.prompt)][None], features], dim=1)
    with hook, torch.no_grad():
        theirs(sequence.clone(), torch.tensor([sequence.shape[1]]))
        expected = outputs[0][:, len(config.prompt) :]
        result = ours.encode(features, torch.tensor([FRAMES]))
    return float((result - expected).abs().max() / expected.abs().max())


def test_two_blocks_are_funasrs():
    config = SanmConfig(num_layers=2, dim=64, num_heads=4, feedforward_dim=96)
    assert compare(config, tp_blocks=1) < 1e-5


def test_the_full_size_encoder_is_funasrs():
    assert compare(SanmConfig(), tp_blocks=20) < 1e-4
