"""Checkpoints: what a file of weights is and holds, told from its header before a weight is read, and how one is written."""
