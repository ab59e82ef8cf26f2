"""Folders of speech as published corpora and Kaldi lay them out."""
