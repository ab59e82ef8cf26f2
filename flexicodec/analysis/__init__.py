"""Looking at tokens: what they are in time and in sound."""
