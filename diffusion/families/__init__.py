"""Families of models as data: how each is told, what its parts are, and what its numbers mean. No file is read here."""
