"""Metrics of decoded speech: signal, recogniser error rates, speaker similarity, predicted opinion scores, bitrates."""
