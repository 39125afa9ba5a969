"""Audio as samples: reading and finding files, sample formats and output files, and the peak limiter."""
