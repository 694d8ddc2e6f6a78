"""Bit for bit with LLaDA's released model: the forward pass restated plainly, from the facts alone."""

import pytest
import torch
import torch.nn.functional as F

from mdlm_min.model.block import rotary_angles
from mdlm_min.model.llada import scaled
from mdlm_min.model.transformer import Transformer

THETA, EPSILON = 500000.0, 1e-5


def norm(x, weight):
    """In float32, rounded to the input's dtype, then times the gain."""
    y = x.float()
    y = y * torch.rsqrt(y.pow(2).mean(dim=-1, keepdim=True) + EPSILON)
    return weight * y.to(x.dtype)


def frequencies(head_width):
    return 1.0 / (THETA ** (torch.arange(0, head_width, 2).float() / head_width))


def rotate(x):
    """[batch, heads, length, head width], in float32: the second half of a head belongs to the first."""
    angles = torch.arange(x.shape[-2]).float()[:, None] * frequencies(x.shape[-1])[None]
    both = torch.cat((angles, angles), dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * both.cos() + torch.cat((-second, first), dim=-1) * both.sin()).to(x.dtype)


def released(model, tokens):
    """Scores at all positions."""
    config, state = model.config, model.state_dict()
    kv_heads = config.kv_heads or config.heads

    def heads(x, weight, number):
        return F.linear(x, weight.clone()).unflatten(-1, (number, -1)).transpose(1, 2)

    x = F.embedding(tokens, state["token_embedding.weight"])
    for layer in range(config.layers):

        def weight(name, layer=layer):
            return state[f"blocks.{layer}.{name}.weight"]

        h = norm(x, weight("norm_1"))
        width = config.width // config.heads * kv_heads
        q, k, v = weight("qkv").split((config.width, width, width))
        q, k, v = heads(h, q, config.heads), heads(h, k, kv_heads), heads(h, v, kv_heads)
        q, k = rotate(q), rotate(k)
        k, v = (part.repeat_interleave(config.heads // kv_heads, dim=1) for part in (k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous().flatten(-2)
        x = x + F.linear(attended, weight("attention_out"))
        h = norm(x, weight("norm_2"))
        x = x + F.linear(F.silu(F.linear(h, weight("mlp_gate"))) * F.linear(h, weight("mlp_in")), weight("mlp_out"))
    return F.linear(norm(x, state["norm.weight"]), state["head.weight"])


def made(dtype, length, **changes):
    model = Transformer(scaled(3, 4, 64, vocab_size=200, outputs=200, length=length, **changes), torch.Generator().manual_seed(0))
    with torch.no_grad():  # gains that rounding sees, and weights large enough to tell attention weights apart
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1, 0.3, generator=torch.Generator().manual_seed(1))
            elif "qkv" in name:
                parameter.mul_(3)
    return model.to(dtype)


@pytest.mark.parametrize("kv_heads", [0, 2, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_scores_are_the_released_model_s_to_the_last_bit(dtype, kv_heads):
    model = made(dtype, 48, kv_heads=kv_heads)
    tokens = torch.randint(200, (3, 48), generator=torch.Generator().manual_seed(2))
    expected = released(model, tokens)
    assert torch.equal(model(tokens), expected)
    mask = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(3)) < 0.4
    # Products of other shapes may add in another order: so far they do not, but only closeness is promised.
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(model(tokens, mask), expected[mask], rtol=0, atol=tolerance)


@torch.no_grad()
def test_scores_at_length_4096_too():
    model = made(torch.float32, 4096)
    tokens = torch.randint(200, (1, 4096), generator=torch.Generator().manual_seed(2))
    assert torch.equal(model(tokens), released(model, tokens))


def test_rotary_tables_are_the_released_ones_at_llada_s_own_sizes():
    angles = torch.arange(4096).float()[:, None] * frequencies(128)[None]
    assert torch.equal(rotary_angles(4096, 128, THETA), angles)
    other = torch.arange(4096).float()[:, None] * THETA ** (-torch.arange(0, 128, 2).float() / 128)
    assert not torch.equal(angles, other)  # the same formula in another order rounds differently
