"""Training of text to speech: a language model of tokens, and a flow-matching decoder of them."""
