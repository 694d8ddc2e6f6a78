import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_min.model.config import ModelConfig
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError

SHAPES = [
    {"layers": 1},
    {"layers": 2},
    {"layers": 3, "causal": True},
    {"layers": 1, "causal": True},
    {"layers": 1, "attention": "uniform"},
    {"layers": 2, "attention": "uniform"},
    {"layers": 2, "tied": True, "outputs": 3},
    {"layers": 2, "position_encoding": "rotary"},
    {"layers": 1, "position_encoding": "rotary"},
    {"layers": 2, "position_encoding": "rotary", "causal": True},
]


def make(batch, length=9, vocab_size=3, **options):
    options = {"outputs": 2, "heads": 2, "width": 8, "init": "width", **options}
    model = Transformer(ModelConfig(vocab_size, length, **options), torch.Generator().manual_seed(0)).double()
    tokens = torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))
    return model, tokens


def output_and_gradients(model, scores, weights):
    model.zero_grad()
    (scores * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("batch", [2, 40], ids=["plain", "distinct inputs"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_selected_positions_equal_the_full_computation(options, batch, share):
    model, tokens = make(batch, **options)
    positions = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < share
    full, selected = model(tokens)[positions], model(tokens, positions)
    assert selected.shape == (int(positions.sum()), model.config.outputs)
    torch.testing.assert_close(selected, full, rtol=0, atol=1e-12)
    if share:
        weights = torch.randn(full.shape, generator=torch.Generator().manual_seed(3), dtype=full.dtype)
        expected = output_and_gradients(model, full, weights)
        found = output_and_gradients(model, selected, weights)
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-11, msg=name)


@pytest.mark.parametrize("gap", [0.0, 20.0, 55.0, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shared_exponentials_equal_the_softmax_whatever_the_scores_are(gap, dtype):
    """`gap`: how far the highest score lies above a query's own, in nats; with 200 the exponentials would not do."""
    model, tokens = make(400, layers=1)
    block, calls = model.blocks[0], []
    attend, linear = block._attend_distinct, block.qkv.forward

    def shifted(x, selection=None):
        """An input that few sequences hold scores `gap` for every query by a head's first coordinate, all others nothing."""
        q, k, v = linear(x, selection)
        first = (torch.arange(8) % 4 == 0).to(x)
        wanted = torch.zeros(len(x), 1).to(x)
        wanted[3] = 2 * gap  # a head is four wide, so scores are divided by two
        return q * (1 - first) + first, k * (1 - first) + first * wanted, v

    def watched(*inputs):
        calls.append(attend(*inputs))
        return calls[-1]

    block.qkv.forward, block._attend_distinct = shifted, watched
    tokens[5:, 1] = 1
    tokens[:5, 1] = 0  # input 3 is token 0 at position 1
    positions = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    weights = torch.randn(int(positions.sum()), 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected_scores = model(tokens)[positions]  # gathered, then the softmax
    assert not calls
    expected = output_and_gradients(model, expected_scores, weights)
    model.to(dtype)
    scores = model(tokens, positions)
    assert [call is None for call in calls] == [gap > 60]
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(scores.double(), expected_scores, rtol=tolerance, atol=tolerance)
    found = output_and_gradients(model, scores, weights.to(dtype))
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(found[name].double(), gradient, rtol=0, atol=tolerance * max(1.0, scale), msg=name)
    model.zero_grad()
    again = output_and_gradients(model, model(tokens, positions), weights.to(dtype))
    assert all(torch.equal(found[name], gradient) for name, gradient in again.items())


def test_in_float32_to_rounding():
    model, tokens = make(64)
    model.float()
    positions = torch.rand(tokens.shape) < 0.4
    torch.testing.assert_close(model(tokens, positions), model(tokens)[positions], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_distinct_inputs_change_nothing(options):
    model, tokens = make(40, **options)  # 40 sequences of 9: more than 4 x 27 distinct inputs
    alone = torch.cat([model(tokens[i : i + 2]) for i in range(0, 40, 2)])  # 18 tokens at a time: fewer
    torch.testing.assert_close(model(tokens), alone, rtol=0, atol=1e-12)


def test_causal_output_does_not_see_the_future():
    model, tokens = make(2, layers=2, causal=True)
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 3
    torch.testing.assert_close(model(changed)[:, :5], model(tokens)[:, :5], rtol=0, atol=1e-12)
    assert not torch.allclose(model(changed)[:, 5:], model(tokens)[:, 5:])


def test_bidirectional_output_sees_everything():
    model, tokens = make(2, layers=1)
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 3
    assert not torch.allclose(model(changed)[:, 0], model(tokens)[:, 0])


def test_rotary_scores_depend_on_the_distance_alone():
    model, _ = make(1, length=12, layers=1, position_encoding="rotary")
    block, x = model.blocks[0], torch.randn(8, dtype=torch.float64)
    rotated = block._rotate(x.expand(1, 12, 8), model._rotary(x.device))[0].unflatten(-1, (2, 4))
    scores = torch.einsum("qhd,khd->hqk", rotated, rotated)
    for distance in range(1, 11):
        values = torch.stack([scores[:, i, i + distance] for i in range(12 - distance)])
        torch.testing.assert_close(values, values[:1].expand_as(values), rtol=0, atol=1e-5)  # angles are float32
    assert not torch.allclose(scores[:, 0, 1], scores[:, 0, 5])


def test_rotary_tables_stay_in_float32_whatever_the_weights_are_in():
    model, tokens = make(1, length=12, layers=1, position_encoding="rotary")
    model.to(torch.bfloat16)
    assert all(table.dtype == torch.float32 for table in model._rotary(tokens.device))


@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 10**6))
def test_a_padded_sequence_scores_as_it_does_alone(lengths, seed):
    model, _ = make(1, length=12, layers=2, vocab_size=9, position_encoding="rotary")
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(9, (len(lengths), 12), generator=generator)
    padding_mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    positions = (torch.rand(tokens.shape, generator=generator) < 0.5) & padding_mask
    selected, whole = model(tokens, positions, padding_mask), model(tokens, None, padding_mask)
    alone = [model(row[None, :length]) for row, length in zip(tokens, lengths, strict=True)]
    for row, (length, expected) in enumerate(zip(lengths, alone, strict=True)):
        torch.testing.assert_close(whole[row, :length], expected[0], rtol=0, atol=1e-12)
    together = [expected[0][positions[row, :length]] for row, (length, expected) in enumerate(zip(lengths, alone, strict=True))]
    torch.testing.assert_close(selected, torch.cat(together), rtol=0, atol=1e-12)


def test_recomputation_gives_the_same_gradients_and_keeps_less(allocation_peak):
    model, tokens = make(16, length=12, layers=4, position_encoding="rotary")
    positions = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    gradients, peaks = [], []
    for recompute in (False, True):
        model.recompute = recompute
        model.zero_grad(set_to_none=True)
        model(tokens, positions).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        peaks.append(allocation_peak(lambda: model(tokens, positions)))
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))
    assert peaks[1] < 0.6 * peaks[0]


def test_padding_needs_rotary_positions():
    model, tokens = make(2)
    with pytest.raises(ValueError, match="padding needs rotary positions"):
        model(tokens, None, torch.ones_like(tokens, dtype=torch.bool))


def test_uniform_attention_ignores_queries_and_keys():
    model, tokens = make(3, layers=1, attention="uniform")
    before = model(tokens)
    with torch.no_grad():
        model.blocks[0].qkv.weight[: 2 * model.config.width].normal_()
    torch.testing.assert_close(model(tokens), before, rtol=0, atol=0)


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(2, 6), st.integers(0, 10**6))
def test_any_shape(batch, length, vocab_size, seed):
    model, tokens = make(batch, length=length, vocab_size=vocab_size)
    positions = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    torch.testing.assert_close(model(tokens, positions), model(tokens)[positions], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("init", "deviation"), [("gpt2", 0.02), ("width", 1 / 8)])
def test_initial_weights_have_the_stated_deviations(init, deviation):
    """Projections back into the residual stream are scaled by the number of all of them, two for each layer."""
    config = ModelConfig(300, 16, 300, layers=3, heads=2, width=64, init=init)
    model = Transformer(config, torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.dim() == 2:
            scale = 1 / 6**0.5 if name.endswith(("attention_out.weight", "mlp_out.weight")) else 1.0
            assert float(parameter.detach().std()) == pytest.approx(deviation * scale, rel=0.06), name


def test_initial_weights_are_a_function_of_the_generator():
    one, two = make(1)[0], make(1)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"width": 9}, "model.width"),
        ({"layers": 0}, "model.layers"),
        ({"attention": "linear"}, "model.attention"),
        ({"init": "big"}, "model.init"),
        ({"tied": True, "outputs": 2}, "model.tied"),
        ({"causal": True, "attention": "uniform"}, "model.attention"),
        ({"position_encoding": "sinus"}, "model.position_encoding"),
        ({"position_encoding": "rotary", "heads": 8}, "model.position_encoding"),
    ],
)
def test_bad_configuration_names_the_field(options, field):
    with pytest.raises(InputError, match=field):
        ModelConfig(**{"vocab_size": 3, "length": 4, "outputs": 3, "heads": 2, "width": 8, **options})


def test_wrong_length_is_refused():
    model, tokens = make(2)
    with pytest.raises(ValueError, match="length 8"):
        model(tokens[:, :8])
