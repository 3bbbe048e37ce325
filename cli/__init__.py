"""The command `latentgraph` and the Python API: the composition root that puts the other packages together.

`Engine` is all that a Python program needs: `Engine().run("workflows/txt2img.yaml", prompt="...")`. Importing it loads no
torch; the first run does.
"""

from .engine import Engine

__all__ = ["Engine"]
