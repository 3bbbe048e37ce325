"""Figures, always as ratios measured in one run. Each module is a program: `python -m benchmarks.engine`, from a checkout."""
