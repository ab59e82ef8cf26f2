"""`flexicodec train-asr`: train a recogniser; `accelerate launch -m flexicodec.training.asr` does it on many GPUs."""

import argparse

HELP = "train a speech recogniser, which a codec can listen with, from a YAML config, or go on where a run stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("config", help="YAML file; its base: names the file it builds on")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.batch_seconds=256 steps=40000")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and do nothing")


def run(args: argparse.Namespace) -> int:
    """Read the config, train, and say where the recogniser lies."""
    import logging

    from flexicodec.config import dump_yaml, to_dict
    from flexicodec.training import asr

    config = asr.read_config(args.config, args.overrides)
    if args.print_config:
        print(dump_yaml(to_dict(config)), end="")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(asr.train(config))
    return 0
