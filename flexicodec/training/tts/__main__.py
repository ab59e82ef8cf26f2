"""`accelerate launch -m flexicodec.training.tts CONFIG [key=value ...]`: `flexicodec train-tts` for a launcher."""

from flexicodec.training.__main__ import run_as_script
from flexicodec.training.tts.config import SpeechTrainingConfig
from flexicodec.training.tts.trainer import train

if __name__ == "__main__":
    run_as_script(config_type=SpeechTrainingConfig, train=train)
