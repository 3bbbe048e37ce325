"""Image prompts: pictures that a network attends to beside its text: IP-Adapter for UNets, Redux for FLUX.1.

IP-Adapter: Ye et al. 2023, arXiv:2308.06721.
"""
