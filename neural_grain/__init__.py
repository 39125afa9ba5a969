"""The engine of the Neural Grain Processor: measure, learn and move the grain of audio."""

__version__ = "2.0.0"
