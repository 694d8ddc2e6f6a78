"""mdlm_min: masked diffusion language models, small enough to read, and the evidence about arXiv:2601.22450."""

__version__ = "0.1.0"
