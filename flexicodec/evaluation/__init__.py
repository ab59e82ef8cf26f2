"""Evaluation of codecs: runs over a corpus, results on disk, summaries and reports; metrics and probes of their own."""
