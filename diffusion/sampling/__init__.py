"""Sampling: a model, what it is told and a rule of guidance, joined into one denoiser and run by a sampler."""
