"""The merging policies, by kind."""
