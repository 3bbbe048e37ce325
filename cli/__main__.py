"""`python -m latentgraph.cli` is the command `latentgraph`."""

from .main import main

if __name__ == "__main__":
    main()
