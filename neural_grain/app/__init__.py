"""Rendering with a trained model: files, batches, playback, and the desktop window."""
