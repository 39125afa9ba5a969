"""The files that the stages exchange: metadata.json, tiles with training_pairs.json, pictures and the demo library."""
