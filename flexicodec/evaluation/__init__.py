"""Measuring: arrays and texts in, floats out. Signals, intelligibility, speakers, predicted opinion scores, rates."""
