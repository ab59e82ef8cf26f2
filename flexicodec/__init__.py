"""FlexiCodec: speech to tokens at a chosen, dynamic frame rate, and back.

Public names are imported with their modules (and torch) when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexicodec.audio import collate, read_audio, split, write_audio
    from flexicodec.calibration import calibrate
    from flexicodec.hub import load
    from flexicodec.models.codec import Codec
    from flexicodec.models.flexicodec.convert_upstream import from_upstream
    from flexicodec.models.nanocodec.convert_nemo import from_nemo
    from flexicodec.models.streaming.state import Windows
    from flexicodec.tokens import TokenFormat, Tokens
    from flexicodec.tts.load import load_tts
    from flexicodec.tts.text_to_speech import TextToSpeech

__version__ = "0.1.0"

__all__ = [
    "Codec",
    "TextToSpeech",
    "TokenFormat",
    "Tokens",
    "Windows",
    "__version__",
    "calibrate",
    "collate",
    "from_nemo",
    "from_upstream",
    "load",
    "load_tts",
    "read_audio",
    "split",
    "write_audio",
]

_HOMES = {
    "Codec": "flexicodec.models.codec",
    "TextToSpeech": "flexicodec.tts.text_to_speech",
    "TokenFormat": "flexicodec.tokens",
    "Tokens": "flexicodec.tokens",
    "Windows": "flexicodec.models.streaming.state",
    "calibrate": "flexicodec.calibration",
    "collate": "flexicodec.audio",
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


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
