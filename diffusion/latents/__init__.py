"""Latents: made, batched, previewed, and carried to pictures and back."""
