"""Text to speech: `load_tts` opens released weights, `TextToSpeech` speaks with them."""

from flexicodec.tts.load import load_tts
from flexicodec.tts.text_to_speech import Synthesis, TextToSpeech, Voice

__all__ = ["Synthesis", "TextToSpeech", "Voice", "load_tts"]
