"""Generation against enumeration: a table of the true joint distribution is the model, so every distribution is known."""

import itertools

import pytest
import torch
from scipy.stats import chisquare

from mdlm_min.diffusion.remasking import TokenRules
from mdlm_min.diffusion.sampling import REMASKING, SamplingConfig, generate, unmask
from mdlm_min.model.config import ModelConfig
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError

LENGTH, VOCABULARY = 3, 3
MASK = VOCABULARY
WORDS = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
# Far from independent, so that tokens drawn together are seen to be so.
JOINT = {word: float(1 + 12 * (word[0] == word[1]) + 5 * (word[1] != word[2]) + word[2]) for word in WORDS}
JOINT = {word: value / sum(JOINT.values()) for word, value in JOINT.items()}


def conditional(tokens: list[int], position: int) -> list[float]:
    """p(token at `position` | the visible tokens) by summing the table."""
    fits = [word for word in WORDS if all(seen in (MASK, token) for seen, token in zip(tokens, word, strict=True))]
    sums = [sum(JOINT[word] for word in fits if word[position] == token) for token in range(VOCABULARY)]
    return [value / sum(sums) for value in sums]


CACHE = {
    (tokens, position): torch.tensor(conditional(list(tokens), position), dtype=torch.float64).log()
    for tokens in itertools.product(range(VOCABULARY + 1), repeat=LENGTH)
    for position in range(LENGTH)
}


def table_model(tokens, positions):
    """Exact logits, with one more class for the mask token, which must never come out."""
    rows = [CACHE[tuple(tokens[row].tolist()), column] for row, column in positions.nonzero().tolist()]
    return torch.nn.functional.pad(torch.stack(rows), (0, 1), value=9.0)


def counts(samples):
    found = dict.fromkeys(WORDS, 0)
    for word in samples.tolist():
        found[tuple(word)] += 1
    return list(found.values())


def empty(batch, length=LENGTH):
    return torch.full((batch, length), MASK)


def process_distribution(steps: int) -> dict[tuple[int, ...], float]:
    """The ancestral process's own distribution after `steps` steps, by enumerating what every step can reveal."""
    states = {(MASK,) * LENGTH: 1.0}
    for step in range(steps):
        p, after = 1 / (steps - step), {}
        for state, probability in states.items():
            masked = [position for position in range(LENGTH) if state[position] == MASK]
            for revealed in itertools.chain.from_iterable(itertools.combinations(masked, n) for n in range(len(masked) + 1)):
                weight = probability * p ** len(revealed) * (1 - p) ** (len(masked) - len(revealed))
                for tokens in itertools.product(range(VOCABULARY), repeat=len(revealed)):
                    new, chance = list(state), weight
                    for position, token in zip(revealed, tokens, strict=True):
                        new[position] = token
                        chance *= float(CACHE[state, position][token].exp())
                    after[tuple(new)] = after.get(tuple(new), 0.0) + chance
        states = after
    return states


def test_drawn_one_by_one_the_samples_follow_the_joint_distribution():
    samples = unmask(table_model, empty(6000), MASK, SamplingConfig("random", LENGTH), seed=0)
    assert chisquare(counts(samples), [6000 * JOINT[word] for word in WORDS]).pvalue > 0.01


@pytest.mark.parametrize("steps", [1, 3])
def test_ancestral_sampling_follows_the_process_and_its_grid_error(steps):
    expected = process_distribution(steps)
    samples = counts(unmask(table_model, empty(6000), MASK, SamplingConfig("ancestral", steps), seed=1))
    assert chisquare(samples, [6000 * expected[word] for word in WORDS]).pvalue > 0.01
    assert chisquare(samples, [6000 * JOINT[word] for word in WORDS]).pvalue < 1e-6  # few steps: not yet the joint


def test_with_many_steps_the_ancestral_process_is_the_joint_distribution():
    expected = process_distribution(40)
    assert max(abs(expected[word] - JOINT[word]) for word in WORDS) < 0.003
    samples = counts(unmask(table_model, empty(1500), MASK, SamplingConfig("ancestral", 40), seed=2))
    assert chisquare(samples, [1500 * JOINT[word] for word in WORDS]).pvalue > 0.01


def test_temperature_sharpens_the_distribution():
    """One position: softmax(log p / T) is p^(1/T), normalised."""
    template = torch.tensor([[MASK, 1, 2]]).expand(4000, -1)
    p = CACHE[(MASK, 1, 2), 0].exp().double() ** 2
    samples = unmask(table_model, template, MASK, SamplingConfig("low-confidence", 1, temperature=0.5), seed=3)[:, 0]
    assert chisquare(samples.bincount(minlength=VOCABULARY), 4000 * p / p.sum()).pvalue > 0.01


def transformer(length=12):
    config = ModelConfig(
        vocab_size=8, length=length, outputs=8, layers=2, heads=2, width=16, init="width", position_encoding="rotary"
    )
    return Transformer(config, torch.Generator().manual_seed(0))


def templates():
    """Five rows with different numbers of masks; token 7 is the mask."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(7, (5, 12), generator=generator)
    return tokens.masked_fill(torch.rand(5, 12, generator=generator) < torch.linspace(0.2, 1, 5)[:, None], 7)


@pytest.mark.parametrize("steps", [3, 5, 40])
def test_low_confidence_at_temperature_0_is_the_plain_loop(steps):
    model, template = transformer(), templates()
    expected = template.clone()
    for row in expected:
        masked = [position for position in range(12) if row[position] == 7]
        for step in range(steps):
            number = len(masked) // steps + (step < len(masked) % steps)
            with torch.no_grad():
                logits = model(row[None])[0].double()
            logits[:, 7] = -torch.inf
            best = {p: logits[p].softmax(0).max(0) for p in range(12) if row[p] == 7}
            for position in sorted(best, key=lambda p: (-float(best[p].values), p))[:number]:
                row[position] = best[position].indices
    found = unmask(model, template, 7, SamplingConfig("low-confidence", steps, 0), seed=0)
    assert torch.equal(found, expected)
    assert not (found == 7).any()


@pytest.mark.parametrize("remasking", REMASKING)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_item_does_not_depend_on_its_neighbours_or_its_place(remasking, temperature):
    model, template, config = transformer(), templates(), SamplingConfig(remasking, 4, temperature)
    together = unmask(model, template, 7, config, seed=5)
    order = [3, 0, 4, 2, 1]
    torch.testing.assert_close(unmask(model, template[order], 7, config, 5, items=order), together[order])
    for item in range(5):
        torch.testing.assert_close(unmask(model, template[[item]], 7, config, 5, items=[item]), together[[item]])
    if temperature:
        assert not torch.equal(unmask(model, template, 7, config, seed=6), together)
        same = unmask(model, template[[4, 4]], 7, config, seed=5)
        assert not torch.equal(same[0], same[1])  # two items, two streams


@pytest.mark.parametrize("remasking", REMASKING)
@pytest.mark.parametrize("temperature", [0.0, 1.0, 50.0])
def test_fixed_tokens_stay_and_suppressed_ones_never_appear(remasking, temperature):
    template = templates().repeat(20, 1)
    found = unmask(transformer(), template, 7, SamplingConfig(remasking, 3, temperature), seed=0, suppress=(2, 5))
    assert torch.equal(found[template != 7], template[template != 7])
    assert not torch.isin(found[template == 7], torch.tensor([2, 5, 7])).any()
    if temperature == 50:
        assert set(found[template == 7].tolist()) == {0, 1, 3, 4, 6}


def test_only_needed_positions_are_scored_and_idle_steps_cost_nothing():
    calls = []

    def score(tokens, positions):
        calls.append(int(positions.sum()))
        return table_model(tokens, positions)

    unmask(score, empty(1), MASK, SamplingConfig("random", 10), seed=0)
    assert calls == [1, 1, 1]
    calls.clear()
    unmask(score, empty(1), MASK, SamplingConfig("low-confidence", 10), seed=0)
    assert calls == [3, 2, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remasking": "beam"}, "remasking: 'beam' is unknown; allowed: ancestral, random, low-confidence, margin, entropy"),
        ({"steps": 0}, "steps: 0 is not allowed; at least 1"),
        ({"temperature": -1.0}, "temperature: -1.0 is not allowed"),
        ({"temperature": float("nan")}, "temperature: nan is not allowed"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError) as error:
        SamplingConfig(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (4,)])
def test_a_template_without_tokens_is_refused(shape):
    with pytest.raises(InputError, match=r"template: the shape \[.*\] is not allowed; \[batch, length\], each at least 1"):
        generate(table_model, torch.zeros(shape, dtype=torch.int64), TokenRules(MASK), SamplingConfig("random", 4))


def test_confidence_is_the_model_s_own_probability_of_the_chosen_token():
    """Position 0 draws token 0 (p = .9: revealed before position 1, where p = .5) or token 1 (p = .1: revealed after it)."""
    seen = []

    def score(tokens, positions):
        seen.append(tokens.clone())
        return torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log().repeat(len(tokens), 1)[positions.flatten()]

    unmask(score, torch.full((200, 2), 2), 2, SamplingConfig("low-confidence", 2), seed=0)
    first = seen[1][:, 0]
    assert set(first.tolist()) == {0, 2}
    assert (seen[1][:, 1] == 2).equal(first == 0)


@pytest.mark.parametrize(("refresh", "exact"), [(0, False), (1, True), (2, False)])
def test_a_cache_is_exact_only_where_every_pass_renews_it(refresh, exact):
    assert SamplingConfig(cache="dual", refresh=refresh).exact == exact


def test_of_equal_confidences_the_first_is_revealed():
    seen = []

    def score(tokens, positions):
        seen.append(tokens.clone())
        return torch.zeros(int(positions.sum()), 3)

    unmask(score, torch.full((1, 200), 3), 3, SamplingConfig("low-confidence", 2, 0), seed=0)
    assert (seen[1] == 3)[0].tolist() == [False] * 100 + [True] * 100
