"""The numerics of latent diffusion: tensors in, tensors out.

Knows no node, no YAML and no HTTP, and imports none of the other packages of latentgraph. Importing this package, its
values and names (`types`, `model`, `names`), `families`, or what reads headers in `checkpoints`, loads neither torch, nor
diffusers, nor transformers, so that a workflow can be checked in a moment; every other module may import them at its top.
"""
