import torch

from mdlm_min.diffusion.masking import bernoulli, one_of


def generator():
    return torch.Generator().manual_seed(0)


def test_bernoulli_masks_each_sequence_at_its_own_rate():
    rate = torch.tensor([0.0, 0.2, 0.7, 1.0])
    shares = bernoulli(rate, 100_000, generator()).float().mean(dim=1)
    torch.testing.assert_close(shares, rate, rtol=0, atol=0.01)
    assert shares[0] == 0
    assert shares[3] == 1


def test_bernoulli_masks_tokens_independently():
    mask = bernoulli(torch.full((100_000,), 0.3), 2, generator())
    assert abs((mask[:, 0] & mask[:, 1]).float().mean().item() - 0.09) < 0.005


def test_one_of_masks_one_of_the_positions_evenly():
    positions = torch.tensor([1, 4, 5])
    mask = one_of(positions, 30_000, 7, generator())
    assert (mask.sum(dim=1) == 1).all()
    shares = mask.float().mean(dim=0)
    torch.testing.assert_close(shares[positions], torch.full((3,), 1 / 3), rtol=0, atol=0.01)
    assert shares.sum() == shares[positions].sum()
