"""`python -m flexicodec.training {asr,codec} CONFIG [key=value ...]`: train from a YAML config."""

import argparse

from flexicodec.config import apply_overrides, from_dict, load_yaml


def main() -> None:
    """Parse, read the config, train, and say where the result lies."""
    parser = argparse.ArgumentParser(prog="python -m flexicodec.training", description=__doc__)
    parser.add_argument("what", choices=("asr", "codec"), help="the frozen encoder, or the codec around it")
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", help="key=value, with dots into parts: optim.learning_rate=1e-4")
    arguments = parser.parse_args()
    settings = apply_overrides(load_yaml(arguments.config), arguments.overrides)
    if arguments.what == "asr":
        from flexicodec.training import asr

        rate = asr.train(from_dict(asr.ASRTrainingConfig, settings))
        print(f"character error rate on the eval corpora: {rate:.3f}")
    else:
        from flexicodec.training import loop
        from flexicodec.training.config import CodecTrainingConfig

        print(loop.train(from_dict(CodecTrainingConfig, settings)))


if __name__ == "__main__":
    main()
