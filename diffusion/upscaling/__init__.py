"""Upscaling: networks that enlarge pictures, of the architectures that spandrel knows, applied tile by tile."""
