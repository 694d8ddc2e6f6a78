import math

import numpy as np
import torch

from mdlm_min.data.surprisal import token_counts, unigram_surprisal


def test_surprisal_by_hand():
    surprisal = unigram_surprisal(token_counts(np.array([0, 1, 0, 1, 0, 2], dtype=np.uint16), 4))
    unigram = [4 / 10, 3 / 10, 2 / 10, 1 / 10]  # counts 3, 2, 1, 0, one added to each
    tokens = torch.tensor([[0, 1, 3], [2, 0, 0]])
    expected = [[-math.log(unigram[token]) for token in row] for row in tokens.tolist()]
    torch.testing.assert_close(surprisal(tokens), torch.tensor(expected, dtype=torch.float64))
