"""Text to speech: `load_tts` opens a model that was trained here, or released weights."""

from flexicodec.tts.codec_tts import CodecTTS
from flexicodec.tts.load import load_tts
from flexicodec.tts.text_to_speech import TextToSpeech
from flexicodec.tts.voices import Synthesis, Voice

__all__ = ["CodecTTS", "Synthesis", "TextToSpeech", "Voice", "load_tts"]
