"""What a window works with, without tkinter: its state and settings, the worker, playback, and learning a model."""
