"""`accelerate launch -m flexicodec.training CONFIG [key=value ...]`: `flexicodec train` for a launcher."""

import logging
import sys
from argparse import ArgumentParser

from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.training.config import TrainingConfig
from flexicodec.training.loop import train


def main(arguments: list[str] | None = None) -> None:
    """Read the config, train, and say where the model lies."""
    parser = ArgumentParser(prog="python -m flexicodec.training", description="Train a codec from a YAML config.")
    parser.add_argument("config", help="YAML file; its base: names the file it builds on")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optim.learning_rate=1e-4 merging=null")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = from_dict(TrainingConfig, apply_overrides(load_yaml(parsed.config), parsed.overrides))
    print(train(config))


if __name__ == "__main__":
    main(sys.argv[1:])
