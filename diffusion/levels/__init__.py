"""Noise levels: which ones a model knows, which ones a run visits, and what the output of a network means at each."""
