"""Training of speech recognisers, whose encoders codecs use as frozen semantic encoders."""
