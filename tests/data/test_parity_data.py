import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_min.data.parity import ParityConfig, bits, is_signal, make_parity
from mdlm_min.diffusion.masking import bernoulli
from mdlm_min.run.errors import InputError
from mdlm_min.theory.formulas import signal_probability


@settings(max_examples=30)
@given(st.integers(8, 40), st.integers(1, 8), st.integers(0, 10**6))
def test_labels_are_the_product_of_the_secret_bits_and_inputs_are_distinct(n, k, seed):
    data = make_parity(ParityConfig(n, k, 100, 50), seed)
    assert data.train.shape == (100, n + 1)
    assert data.validation.shape == (50, n + 1)
    assert len(data.secret) == k + 1
    assert data.secret[-1] == n
    values = torch.cat([data.train, data.validation]) - 1
    assert set(values.unique().tolist()) == {-1, 1}
    assert torch.equal(values[:, data.secret[:-1]].prod(dim=1), values[:, -1])
    assert len(values[:, :-1].unique(dim=0)) == 150


@pytest.mark.parametrize("n", [20, 40])
def test_bits_are_uniform(n):
    values = make_parity(ParityConfig(n, 6, 20_000, 20_000), 3).train - 1
    assert values.float().mean(dim=0).abs().max() < 0.03


def test_a_seed_gives_the_same_data_and_another_seed_other_data():
    one, same, other = (make_parity(ParityConfig(10, 3, 50, 50), seed) for seed in (1, 1, 2))
    assert one.sha256() == same.sha256() != other.sha256()


def test_every_input_can_be_used():
    data = make_parity(ParityConfig(4, 2, 10, 6), 0)
    inputs = (torch.cat([data.train, data.validation]) - 1)[:, :-1]
    assert torch.equal(inputs.unique(dim=0), bits(torch.arange(16), 4).unique(dim=0))


def test_signal_share_is_that_of_theorem_4_3():
    secret = torch.tensor([0, 3, 4, 10])
    generator = torch.Generator().manual_seed(0)
    rate = torch.rand(200_000, generator=generator) * 0.4
    share = is_signal(bernoulli(rate, 11, generator), secret).float().mean().item()
    assert share == pytest.approx(signal_probability(0, 0.4, 3), abs=0.005)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ((4, 5, 1, 1), "data.k"),
        ((4, 0, 1, 1), "data.k"),
        ((63, 2, 1, 1), "data.n"),
        ((4, 2, 0, 1), "data.train_samples"),
        ((4, 2, 10, 7), "data.train_samples: 17"),
    ],
)
def test_bad_sizes_name_the_field(values, field):
    with pytest.raises(InputError, match=field):
        ParityConfig(*values)
