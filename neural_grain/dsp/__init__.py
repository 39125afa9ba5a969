"""Signal processing: measuring the grain of a sound, picturing it, and rendering it with another grain."""
