"""Networks in memory: built from a spec, filled from files, patched, mixed, and kept under a byte budget."""
