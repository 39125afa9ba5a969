"""Rendering audio files with a model: one file, a batch, an instrument, and what is reported about them."""
