"""`accelerate launch -m flexicodec.training.asr CONFIG [key=value ...]`: `flexicodec train-asr` for a launcher."""

from flexicodec.training.__main__ import run_as_script
from flexicodec.training.asr.trainer import ASRTrainingConfig, train

if __name__ == "__main__":
    run_as_script(config_type=ASRTrainingConfig, train=train)
