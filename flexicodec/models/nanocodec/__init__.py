"""LFSC (arXiv 2409.12117) and NanoCodec (arXiv 2508.05835): one convolutional codec with a fixed rate, two families of configs."""
