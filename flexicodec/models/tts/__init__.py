"""FlexiCodec-TTS: text to tokens by an autoregressive model, tokens to mel by flow matching, mel to audio by Vocos."""
