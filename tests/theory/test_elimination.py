import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.theory.elimination import secret_by_elimination


@given(st.integers(1, 30), st.data())
def test_elimination_finds_any_secret(n, data):
    secret = sorted(data.draw(st.sets(st.integers(0, n - 1))))
    bits = np.random.default_rng(data.draw(st.integers(0, 10**6))).integers(0, 2, (4 * n + 40, n))
    assert secret_by_elimination(bits, bits[:, secret].sum(axis=1) % 2) == secret


def test_too_few_samples_give_none():
    assert secret_by_elimination(np.eye(4, dtype=int)[:3], np.ones(3, dtype=int)) is None


def test_labels_that_no_set_explains_give_none():
    bits = np.random.default_rng(0).integers(0, 2, (60, 8))
    assert secret_by_elimination(bits, np.random.default_rng(1).integers(0, 2, 60)) is None


def test_the_input_is_not_changed():
    bits = np.random.default_rng(0).integers(0, 2, (30, 5))
    before = bits.copy()
    secret_by_elimination(bits, bits[:, 0])
    assert (bits == before).all()
