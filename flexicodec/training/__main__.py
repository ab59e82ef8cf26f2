"""`accelerate launch -m flexicodec.training CONFIG [key=value ...]`: `flexicodec train` for a launcher."""

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flexicodec.config import apply_overrides, from_dict, load_yaml
from flexicodec.training.config import TrainingConfig
from flexicodec.training.trainer import train as train_codec


def main(
    arguments: list[str] | None = None,
    config_type: type = TrainingConfig,
    train: Callable[[Any], Path] = train_codec,
) -> None:
    """Read the config, train, and print the model's folder; only the first process logs more than errors."""
    parser = ArgumentParser(description="Train from a YAML config.")
    parser.add_argument("config", help="YAML file; its base: names the file it builds on")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. optim.learning_rate=1e-4 steps=1000")
    parsed = parser.parse_args(arguments)
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    config: Any = from_dict(config_type, apply_overrides(load_yaml(parsed.config), parsed.overrides))
    folder = train(config)
    if first:
        print(folder)


def run_as_script(**settings: Any) -> None:
    """Run `main` on the command line, with expected errors in one line."""
    try:
        main(**settings)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"flexicodec: {error}")


if __name__ == "__main__":
    run_as_script()
