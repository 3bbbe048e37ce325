"""Samplers: generators that walk from noise to a latent and ask for one denoised estimate at a time.

None of them sees a network; `problem` says what they ask, `drive` answers, `catalogue` has them by name.
"""
