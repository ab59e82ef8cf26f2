"""Training and fine-tuning of codecs and recognisers; docs/training.md is the guide."""
