"""Settings that every test shares: one thread for torch, so that results repeat and tests do not crowd the machine."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
