"""FlexiCodec (arXiv 2510.00981): a dual-stream codec with a dynamic frame rate."""
