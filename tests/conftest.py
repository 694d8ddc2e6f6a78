"""Fast tests first: the slow ones (marked so) run after all others."""

import os

import hypothesis
import pytest

# A busy machine is no failure; CI draws the same examples every time, a developer's run new ones.
hypothesis.settings.register_profile("suite", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: seconds to minutes of training; runs after the fast tests")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """As in the workers of a sweep: the bits of a sum depend on the number of threads."""
    import torch

    torch.set_num_threads(1)
