"""The window that `mdlm window` predicts from the corpus: .1 wide, around the t* of the paper's formula (F.4) for the n-gram
weights of the training tokens. Weight 1/t.

The counts are of the tokens that the model sees. Estimates the bound's part on the window, times 1 / width.
"""

import numpy as np

from mdlm_min.data.ngrams import count_ngrams
from mdlm_min.diffusion.mask_rate import MaskRate, window_around
from mdlm_min.diffusion.mask_schedule import BoundPart, RateSchedule
from mdlm_min.theory.formulas import mixture_optimum


def predicted_window(corpus: np.ndarray) -> RateSchedule:
    """From training tokens, one dimension. Raises InputError where no n-gram occurs often enough."""
    text = window_around(mixture_optimum(count_ngrams(corpus).weights()))
    low, high = map(float, text.removeprefix("U[").removesuffix("]").split(","))
    return RateSchedule(MaskRate.parse(text), "1/t", "predicted_window", BoundPart(low, high, 1 / (high - low)))
