"""Streams: audio in and tokens out, tokens in and audio out, with states as values."""
