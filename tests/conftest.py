"""Fast tests first: the slow ones (marked so) run after all others."""

import os
from pathlib import Path

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


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """No test reads or fills the user's cache of tokens, and none finds data that it was not given."""
    monkeypatch.setenv("MDLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("MDLM_DATA", raising=False)


@pytest.fixture
def data_folder(monkeypatch):
    """The folder of real corpora beside the checkout, as MDLM_DATA; the test is skipped where there is none."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "wikitext-2").is_dir():
        pytest.skip(f"no corpora in {folder}")
    monkeypatch.setenv("MDLM_DATA", str(folder))
    return folder


@pytest.fixture
def allocation_peak():
    """A function that calls another and returns the most bytes that were allocated at a moment of it, by the allocator's own
    account."""
    from torch.profiler import ProfilerActivity, profile

    def peak_of(function):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            kept = function()  # noqa: F841 - what it returns lives until the account is closed
        events = [
            (event.start_ns(), event.nbytes())
            for event in profiler.profiler.kineto_results.events()
            if event.name() == "[memory]"
        ]
        now = peak = 0
        for _, size in sorted(events, key=lambda event: event[0]):
            now += size
            peak = max(peak, now)
        return peak

    return peak_of
