"""Language models on tokens: ids and layouts, packed corpora and their loader, masks, embeddings and heads."""

from flexicodec.lm.layouts import Layout, delayed_layout, make_layout
from flexicodec.lm.vocabulary import Kind, Vocabulary

__all__ = ["Kind", "Layout", "Vocabulary", "delayed_layout", "make_layout"]
