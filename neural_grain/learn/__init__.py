"""Learning: the model, the referees that judge it, and its training. Only this floor imports torch."""
