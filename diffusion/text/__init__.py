"""Text: from a prompt to the embedding that a denoising network attends to."""
