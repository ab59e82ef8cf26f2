"""LFSC (arXiv 2409.12117) and NanoCodec (arXiv 2508.05835): one codec, two families of configs."""
