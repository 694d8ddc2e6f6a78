import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mdlm_min.model import selection as module
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.selection import Selection, grid_size
from mdlm_min.model.transformer import Transformer

# Training steps whose number of masked positions differs every time; prints by what factor the most memory of
# the last steps is above that of early ones (single values jump by a tenth).
STEPS = """
import torch
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.transformer import Transformer
torch.set_num_threads(1)
model = Transformer(ModelConfig(17, 16, 16, layers=1, heads=1, width=16, position_encoding="rotary"),
torch.Generator().manual_seed(0))
tokens = torch.zeros(4096, 16, dtype=torch.int64)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
sizes = []
for step in range(121):
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(step)) < 0.4
    model(tokens, mask).square().mean().backward()
    sizes.append(resident())
print(max(sizes[90:]) / max(sizes[10:40]))
"""


@given(st.integers(1, 10**9))
def test_a_size_holds_the_count_and_wastes_at_most_a_sixteenth(count):
    size = grid_size(count)
    assert count <= size <= count * (1 + 1 / 16)
    assert grid_size(size) == size


def test_few_sizes_serve_all_counts():
    assert [grid_size(count) for count in (0, 1, 15, 16, 17, 31, 32, 33, 64, 65)] == [0, 1, 15, 16, 17, 31, 32, 34, 64, 68]
    assert len({grid_size(count) for count in range(4097, 8193)}) == 16


@given(st.integers(1, 12), st.integers(1, 40), st.floats(0, 1), st.integers(0, 10**6))
def test_what_is_packed_is_unpacked(batch, length, share, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, length, generator=generator) < share
    x = torch.randn(batch, length, 3, generator=generator)
    selection = Selection.of(mask)
    picked = selection.pick(x)
    assert torch.equal(picked[: selection.count], x[mask])
    assert len(picked) == min(grid_size(int(mask.sum())), mask.numel())
    packed = selection.pack(picked, batch)
    for row, chosen in enumerate(mask):
        assert torch.equal(packed[row, : int(chosen.sum())], x[row, chosen])
        assert not packed[row, int(chosen.sum()) :].any()
    assert torch.equal(selection.unpack(packed), picked)


@given(st.lists(st.integers(0, 4), max_size=60))
def test_groups_hold_their_entries_in_order(group):
    ids, x = torch.tensor(group, dtype=torch.int64), torch.arange(len(group)) + 1.0
    groups = Selection.grouped(ids, 5)
    packed = groups.pack(x, 5)
    for number in range(5):
        members = x[ids == number]
        assert torch.equal(packed[number, : len(members)], members)
    assert torch.equal(groups.unpack(packed), x)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"position_encoding": "rotary"}, {"attention": "uniform"}], ids=str)
@pytest.mark.parametrize("batch", [3, 40], ids=["plain", "distinct inputs"])
def test_padding_changes_neither_outputs_nor_gradients(options, batch, monkeypatch):
    """Far more padding than the grid ever adds, against none; and against full logits in test_transformer.py."""
    results = []
    for size in (lambda count: count, lambda count: 2 * count + 5):
        monkeypatch.setattr(module, "grid_size", size)
        config = ModelConfig(3, 9, 2, layers=2 if batch == 3 else 1, heads=2, width=8, **options)
        model = Transformer(config, torch.Generator().manual_seed(0)).double()
        tokens = torch.randint(3, (batch, 9), generator=torch.Generator().manual_seed(1))
        mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.3
        scores = model(tokens, mask)
        scores.sin().sum().backward()
        results.append((scores, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (exact, expected), (padded, found) = results
    assert exact.shape == padded.shape
    torch.testing.assert_close(padded, exact, rtol=0, atol=1e-14)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-13, msg=name)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps():
    """Every new shape costs an entry of oneDNN's cache of kernels, and the memory that it pins: several times as much without
    padding."""
    found = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 1.1
