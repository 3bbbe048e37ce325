"""The client: what a program asks of a latentgraph server, without knowing HTTP. See `Client`."""

from .calls import Client

__all__ = ["Client"]
