"""`accelerate launch -m flexicodec.training CONFIG [key=value ...]`: `flexicodec train` for a launcher."""

import logging
import os
import sys
from argparse import ArgumentParser

from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.training.config import TrainingConfig
from flexicodec.training.loop import train


def main(arguments: list[str] | None = None) -> None:
    """Read the config, train, and say where the model lies; only the first process speaks, and all of them warn."""
    parser = ArgumentParser(prog="python -m flexicodec.training", description="Train a codec from a YAML config.")
    parser.add_argument("config", help="YAML file; its base: names the file it builds on")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optim.learning_rate=1e-4 steps=1000")
    parsed = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    config = from_dict(TrainingConfig, apply_overrides(load_yaml(parsed.config), parsed.overrides))
    folder = train(config)
    if first:
        print(folder)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"flexicodec: {error}")
