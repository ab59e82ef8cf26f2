"""Frozen encoders: networks trained elsewhere whose features say what is spoken."""
