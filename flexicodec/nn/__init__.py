"""Layers shared by the codecs; padding never changes the valid steps of an item."""
