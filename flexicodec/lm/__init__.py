"""Language models on tokens: ids and layouts, packed corpora and their loader, masks, embeddings and heads."""

from flexicodec.lm.layout import Layout
from flexicodec.lm.layouts import delayed_layout, make_layout
from flexicodec.lm.vocabulary import Kind, Vocabulary

__all__ = ["Kind", "Layout", "Vocabulary", "delayed_layout", "make_layout"]
