"""FlexiCodec: speech to tokens at a chosen, dynamic frame rate, and back.

Public names are imported with their modules (and torch) when they are first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexicodec.audio import EXAMPLE, collate, example_audio, read_audio, split, write_audio
    from flexicodec.calibration import calibrate
    from flexicodec.hub import load
    from flexicodec.models.codec import Codec
    from flexicodec.models.flexicodec.config import FlexiCodecConfig
    from flexicodec.models.flexicodec.convert_upstream import from_upstream
    from flexicodec.models.flexicodec.model import FlexiCodec
    from flexicodec.models.nanocodec.convert_nemo import from_nemo
    from flexicodec.models.nanocodec.model import NanoCodec
    from flexicodec.models.streaming.state import Windows
    from flexicodec.tokens import TokenFormat, Tokens
    from flexicodec.tts.load import load_tts
    from flexicodec.tts.text_to_speech import TextToSpeech

__version__ = "0.1.0"

__all__ = [
    "EXAMPLE",
    "Codec",
    "TextToSpeech",
    "FlexiCodec",
    "FlexiCodecConfig",
    "NanoCodec",
    "TokenFormat",
    "Tokens",
    "Windows",
    "__version__",
    "calibrate",
    "collate",
    "example_audio",
    "from_nemo",
    "from_upstream",
    "load",
    "load_tts",
    "read_audio",
    "split",
    "write_audio",
]

_HOMES = {
    "EXAMPLE": "flexicodec.audio",
    "Codec": "flexicodec.models.codec",
    "TextToSpeech": "flexicodec.tts.text_to_speech",
    "FlexiCodec": "flexicodec.models.flexicodec.model",
    "FlexiCodecConfig": "flexicodec.models.flexicodec.config",
    "NanoCodec": "flexicodec.models.nanocodec.model",
    "TokenFormat": "flexicodec.tokens",
    "Tokens": "flexicodec.tokens",
    "Windows": "flexicodec.models.streaming.state",
    "calibrate": "flexicodec.calibration",
    "collate": "flexicodec.audio",
    "example_audio": "flexicodec.audio",
    "from_nemo": "flexicodec.models.nanocodec.convert_nemo",
    "from_upstream": "flexicodec.models.flexicodec.convert_upstream",
    "load": "flexicodec.hub",
    "load_tts": "flexicodec.tts.load",
    "read_audio": "flexicodec.audio",
    "split": "flexicodec.audio",
    "write_audio": "flexicodec.audio",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module on first use (PEP 562) and keep the name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


if "torch" in sys.modules:  # `torch.load` then opens tokens, whose classes are registered by their module
    import_module("flexicodec.tokens")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
