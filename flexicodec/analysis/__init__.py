"""Analyses of tokens: frame rate against phone rate, contents, boundaries, code lengths, and the report on them."""
