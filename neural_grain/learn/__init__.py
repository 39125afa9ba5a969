"""Learning: the model, the referees that judge it, and its training. Only this floor imports torch.

Rendering needs only `settings`, `archive`, `detector` and `model_file`, which do without it.
"""
