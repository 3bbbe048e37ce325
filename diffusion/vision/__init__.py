"""Vision: from pictures to the embeddings by which a denoising network is told of them."""
