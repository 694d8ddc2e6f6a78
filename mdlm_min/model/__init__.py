"""The networks, and LLaDA's weights in and out. Nothing here knows diffusion."""
