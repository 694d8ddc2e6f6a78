"""The reduced model of section 4.1 is v . relu(W z) on summed one-hots, however it is computed."""

import pytest
import torch

from mdlm_min.model import mlp
from mdlm_min.model.mlp import MLPConfig, UniformAttentionMLP


def by_definition(model, tokens):
    z = torch.nn.functional.one_hot(tokens, model.config.vocab_size).transpose(1, 2).flatten(1).to(model.W.dtype)
    return torch.relu(z @ model.W) @ model.v


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(mlp, "PIECE", 7)  # several pieces, the last one smaller
    return UniformAttentionMLP(MLPConfig(3, 6, 32), torch.Generator().manual_seed(0)).double()


def test_output_and_gradient_are_those_of_the_definition_at_each_selected_position(model):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, (40, 6), generator=generator)
    selection = torch.rand(40, 6, generator=generator) < 0.15
    assert 0 < int(selection.any(1).sum()) < 40  # some sequences ask nothing
    weights = torch.randn(int(selection.sum()), generator=generator, dtype=torch.float64)

    output = model(tokens, selection)
    expected = by_definition(model, tokens)[selection.nonzero(as_tuple=True)[0], None]
    torch.testing.assert_close(output, expected)
    found, known = (torch.autograd.grad((y[:, 0] ** 2 * weights).sum(), [model.W, model.v]) for y in (output, expected))
    torch.testing.assert_close(found, known)
    torch.testing.assert_close(model(tokens), by_definition(model, tokens)[:, None, None].expand(-1, 6, 1))


def test_where_nothing_is_selected_there_is_no_output(model):
    tokens = torch.ones(3, 6, dtype=torch.int64)
    assert model(tokens, torch.zeros_like(tokens, dtype=torch.bool)).shape == (0, 1)
