"""Discriminators: modules that map audio [B, S] to a list of judgements, one or more each.

`Discriminators` gathers those of a config; `flexicodec.training.adversarial` turns their judgements into losses.
"""

from flexicodec.training.discriminators.band import BandDiscriminator
from flexicodec.training.discriminators.ensemble import Discriminators
from flexicodec.training.discriminators.period import PeriodDiscriminator
from flexicodec.training.discriminators.shared import Judgement
from flexicodec.training.discriminators.slm import HiddenStates, SlmDiscriminator
from flexicodec.training.discriminators.stft import SpectrogramDiscriminator

__all__ = [
    "BandDiscriminator",
    "Discriminators",
    "HiddenStates",
    "Judgement",
    "PeriodDiscriminator",
    "SlmDiscriminator",
    "SpectrogramDiscriminator",
]
