import numpy as np
import pytest

from mdlm_min.data.parity_corpus import layout, make_parities, parse_orders
from mdlm_min.data.text import TextConfig
from mdlm_min.run.errors import InputError


def test_every_group_has_even_parity_and_its_parts_are_fair():
    corpus = "parities:0.5*2+0.5*4"
    rows = make_parities(TextConfig(corpus, length=16)).splits["valid"].reshape(-1, 16)
    start = 0
    for order in layout(corpus, 16):
        group = rows[:, start : start + order]
        assert (group.sum(axis=1) % 2 == 0).all()
        assert np.abs(group.mean(axis=0) - 0.5).max() < 0.05
        assert np.abs(np.corrcoef(group[:, :-1].T) - np.eye(order - 1)).max() < 0.1 if order > 2 else True
        start += order
    assert start == 16


def test_groups_of_all_orders_are_mixed():
    orders = layout("parities:0.5*2+0.5*4", 64)
    assert sorted(orders) == [2] * 16 + [4] * 8
    assert orders not in (sorted(orders), sorted(orders, reverse=True))


def test_shares_are_of_tokens():
    assert sorted(layout("parities:0.5*2+0.5*4", 16)) == [2, 2, 2, 2, 4, 4]
    assert parse_orders("parities:4") == {4: 1.0}


def test_the_corpus_is_a_function_of_its_name():
    assert make_parities(TextConfig("parities:4", length=12)).sha256 == make_parities(TextConfig("parities:4", length=12)).sha256
    assert make_parities(TextConfig("parities:4", length=12)).sha256 != make_parities(TextConfig("parities:3", length=12)).sha256


def test_blocks_start_where_sequences_start():
    data = make_parities(TextConfig("parities:4", length=12))
    batch = data.batch("train", 12, 64, 0, 0)
    assert (batch.unflatten(1, (3, 4)).sum(dim=2) % 2 == 0).all()


@pytest.mark.parametrize(
    "name", ["parities:1", "parities:4*4", "parities:0.5*2", "parities:x", "parities:0.5*2+0.6*3", "parities:" + "9" * 5000]
)
def test_bad_mixtures_are_refused(name):
    with pytest.raises(InputError, match=r"data.corpus: .*allowed: parities:i or"):
        parse_orders(name)


def test_a_length_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="data.length: 1 of 13 tokens are no whole number of groups of order 4"):
        layout("parities:4", 13)


def test_a_length_that_would_fill_the_memory_is_refused():
    with pytest.raises(InputError, match="data.length: 10000000 is not allowed; at most 4096 for a mixture of parities"):
        layout("parities:4", 10_000_000)


def test_a_tokenizer_is_refused_because_there_is_no_text():
    with pytest.raises(InputError, match="data.tokenizer: 'gpt2' is not allowed; parities are tokens already: leave it 'bytes'"):
        make_parities(TextConfig("parities:4", "gpt2", 12))
