"""Adapters: small files that change a network, read from their headers and laid on copies that share the base weights."""
