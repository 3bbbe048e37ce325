"""Layouts: how the tensors of each kind of network are named and shaped, in files and in the networks that are built."""
