"""Measuring what codecs keep."""
