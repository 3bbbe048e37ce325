"""Image prompts: pictures that a UNet attends to beside its text. Ye et al. 2023, arXiv:2308.06721 (IP-Adapter)."""
