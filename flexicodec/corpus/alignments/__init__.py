"""Time alignments of phones and words: their formats, and classes of phones."""
