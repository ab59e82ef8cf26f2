"""The codecs, their common interface, streaming, and encoding of many files."""
