"""The mask schedules of the field, one short file each, registered by name.

    from baselines.schedules import Corpus, SCHEDULES, make
    schedule = make("p_pots", Corpus(tokens, vocab_size))

Some of them count the training corpus, so all are made from one. `describe` lists them with what each estimates: a part of
the likelihood bound without bias (tests/test_schedules.py enumerates all masks of a small sequence), or nothing, which makes
it a reweighting.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from baselines.schedules.annealed_window import full_to_middle, middle_to_full
from baselines.schedules.bell_shaped import bell_shaped
from baselines.schedules.cart import Cart
from baselines.schedules.exact_count import ExactCount
from baselines.schedules.frequency_informed import FrequencyInformed
from baselines.schedules.least_variance_window import LeastVarianceWindow
from baselines.schedules.llada import llada
from baselines.schedules.llada2 import Llada2Pairs, llada2
from baselines.schedules.md4 import Cosine, Polynomial
from baselines.schedules.mdlm import Mdlm
from baselines.schedules.mirror import Mirror, MirrorComplementary
from baselines.schedules.p_pots import PPots
from baselines.schedules.papl import Papl
from baselines.schedules.predicted_window import predicted_window
from baselines.schedules.puma import Puma
from baselines.schedules.shared_offset import SharedOffset
from baselines.schedules.signal_rich_window import signal_rich_window
from baselines.schedules.simple_cross_entropy import SimpleCrossEntropy
from baselines.schedules.window_mixture import window_mixture, window_mixture_unbiased
from mdlm_min.data.surprisal import token_counts, unigram_surprisal
from mdlm_min.diffusion.density import InformationDensity
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """Training tokens (ids, one dimension) and the size of their vocabulary."""

    tokens: np.ndarray
    vocab_size: int

    @cached_property
    def counts(self) -> np.ndarray:
        """Of each token, int64 [vocabulary]; counted once, when a schedule first asks for it."""
        return token_counts(self.tokens, self.vocab_size)


@dataclass(frozen=True)
class Entry:
    """How a schedule is made, and where it comes from."""

    make: Callable[[Corpus], MaskSchedule]
    source: str


def _alone(make: Callable[[], MaskSchedule]) -> Callable[[Corpus], MaskSchedule]:
    return lambda corpus: make()


def _density(pairs: bool, hard: bool, name: str) -> Callable[[Corpus], MaskSchedule]:
    return lambda corpus: InformationDensity(surprisal=unigram_surprisal(corpus.counts), pairs=pairs, hard=hard, name=name)


SCHEDULES = {
    "llada_0.001": Entry(_alone(llada), "arXiv:2502.09992"),
    "llada_0.1": Entry(_alone(partial(llada, 0.1)), "arXiv:2502.09992; parameter-golf 1106"),
    "mdlm": Entry(_alone(Mdlm), "arXiv:2406.07524"),
    "md4_cosine": Entry(_alone(Cosine), "arXiv:2406.04329"),
    "md4_polynomial_2": Entry(_alone(Polynomial), "arXiv:2406.04329"),
    "shared_offset": Entry(_alone(SharedOffset), "arXiv:2107.00630, 2406.04329"),
    "exact_count": Entry(_alone(ExactCount), "arXiv:2502.09992, Eq. 6"),
    "simple_cross_entropy": Entry(_alone(SimpleCrossEntropy), "arXiv:2602.15014"),
    "bell_shaped": Entry(_alone(bell_shaped), "arXiv:2605.13026 (our reading)"),
    "least_variance_window": Entry(_alone(LeastVarianceWindow), "arXiv:2503.09573 (our reading)"),
    "llada2": Entry(_alone(llada2), "arXiv:2512.15745"),
    "llada2_pairs": Entry(_alone(Llada2Pairs), "arXiv:2512.15745"),
    "p_pots": Entry(_alone(PPots), "arXiv:2511.18159 (our reading)"),
    "mirror_independent": Entry(_alone(Mirror), "arXiv:2511.18159, released code"),
    "mirror_complementary": Entry(_alone(MirrorComplementary), "arXiv:2511.18159, README"),
    "puma": Entry(_alone(Puma), "arXiv:2602.10314"),
    "papl": Entry(_alone(Papl), "arXiv:2509.23405"),
    "cart": Entry(_alone(Cart), "arXiv:2508.15487"),
    "frequency_informed": Entry(lambda corpus: FrequencyInformed(corpus.counts), "arXiv:2509.05056 (our reading)"),
    "information_density": Entry(_density(True, False, "information_density"), "arXiv:2603.15803 (marks ours)"),
    "information_density_alone": Entry(_density(False, False, "information_density_alone"), "arXiv:2603.15803 (marks ours)"),
    "information_density_hard": Entry(_density(False, True, "information_density_hard"), "arXiv:2603.15803 (marks ours)"),
    "middle_to_full": Entry(_alone(middle_to_full), "our own"),
    "full_to_middle": Entry(_alone(full_to_middle), "our own"),
    "window_mixture": Entry(_alone(window_mixture), "our own"),
    "window_mixture_unbiased": Entry(_alone(window_mixture_unbiased), "our own"),
    "predicted_window": Entry(lambda corpus: predicted_window(corpus.tokens), "arXiv:2601.22450, F.4"),
    "signal_rich_window": Entry(_alone(signal_rich_window), "arXiv:2601.22450"),
}


def make(name: str, corpus: Corpus) -> MaskSchedule:
    """The schedule of this name. Raises InputError for a name that is not registered."""
    if name not in SCHEDULES:
        raise InputError(f"schedule: {shown(name)} is unknown; allowed: {', '.join(SCHEDULES)}")
    return SCHEDULES[name].make(corpus)


def describe(corpus: Corpus) -> list[dict[str, str]]:
    """One row for each schedule: name, source, what its first step estimates, rows of a sequence."""
    rows = []
    for name, entry in SCHEDULES.items():
        schedule = entry.make(corpus)
        part = schedule.estimates(Context(1, 1))
        rows.append(
            {
                "schedule": name,
                "source": entry.source,
                "estimates": str(part) if part else "reweighting",
                "copies": str(schedule.copies),
            }
        )
    return rows
