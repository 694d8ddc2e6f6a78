"""What the benchmarks share: several ways to do a step, timed alternately in one run. A benchmark reports; it does not judge
speed."""

import statistics
import time

import pytest

ROUNDS = 5


@pytest.fixture
def compare(benchmark):
    """A function of named steps, the first being ours: median seconds of each, from `ROUNDS` interleaved rounds after one
    warm-up."""

    def run(steps, rounds=ROUNDS):
        (_, ours), *others = steps.items()
        times = {name: [] for name, _ in others}

        def time_others():
            for name, step in others:
                started = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - started)

        benchmark.pedantic(ours, setup=time_others, rounds=max(rounds, ROUNDS), warmup_rounds=1)
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        mine = benchmark.stats.stats.median
        benchmark.extra_info.update({f"{name} / ours": value / mine for name, value in medians.items()})
        return {next(iter(steps)): mine, **medians}

    return run
