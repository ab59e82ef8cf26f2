"""`flexicodec train`: train or fine-tune a codec, on one machine or, under `accelerate launch`, on many."""

import argparse

HELP = "train or fine-tune a codec from a YAML config, or go on where a run stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("config", help="YAML file; its base: names the file it builds on")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. optim.learning_rate=1e-4 model.merging=null"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and do nothing")


def run(args: argparse.Namespace) -> int:
    """Read the config, train, and say where the model lies."""
    from flexicodec.config import apply_overrides, dump_yaml, from_dict, load_yaml, to_dict
    from flexicodec.training.config import TrainingConfig

    config = from_dict(TrainingConfig, apply_overrides(load_yaml(args.config), args.overrides))
    if args.print_config:
        print(dump_yaml(to_dict(config)), end="")
        return 0
    from flexicodec.training.__main__ import main

    main([args.config, *args.overrides])
    return 0
