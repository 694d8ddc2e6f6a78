from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.data.ngrams import ORDERS, Counts, count_ngrams, count_order, load_countable
from mdlm_min.data.text import TextConfig
from mdlm_min.run.errors import InputError
from mdlm_min.theory.formulas import WIKITEXT_WEIGHTS


def by_counter(tokens, order, minimum):
    counts = Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
    kept = [count for count in counts.values() if count >= minimum]
    return len(kept), sum(kept)


@given(st.lists(st.integers(0, 3), max_size=200), st.sampled_from(ORDERS), st.integers(1, 6), st.integers(1, 60))
def test_counts_equal_a_plain_count(tokens, order, minimum, partition):
    array = np.array(tokens, dtype=np.uint16)
    assert count_order(array, order, minimum, partition) == by_counter(tokens, order, minimum)


def test_chunks_do_not_show(monkeypatch):
    from mdlm_min.data import ngrams

    tokens = np.random.default_rng(0).integers(0, 5, 3000)
    whole = count_ngrams(tokens)
    monkeypatch.setattr(ngrams, "_CHUNK", 17)
    assert count_ngrams(tokens) == whole


def test_weights_are_shares():
    counts = Counts((1, 2, 3, 4, 0), (10, 20, 30, 40, 0))
    assert counts.weights() == pytest.approx((0.1, 0.2, 0.3, 0.4, 0))
    assert counts.weights("types") == pytest.approx((0.1, 0.2, 0.3, 0.4, 0))


def test_a_text_without_frequent_ngrams_has_no_weights():
    for reading in ("occurrences", "types"):
        with pytest.raises(
            InputError, match="data.corpus: no sequence of 2 to 6 tokens occurs 5 times, .* needed: a longer text"
        ):
            Counts((0,) * 5, (0,) * 5).weights(reading)


def test_the_reading_that_gives_the_published_weights(data_folder):
    tokens, _ = load_countable(TextConfig("wikitext-2", "words"))
    assert np.abs(np.array(count_ngrams(tokens).weights()) - WIKITEXT_WEIGHTS).max() < 0.005
