"""From a run's metrics to its row of the table. Nothing here loads torch: `mdlm verify` makes every table again."""

from typing import Any

from mdlm_min.run.run_folder import Row

SOLVED = 0.99
LEVELS = tuple(f"t{low / 10:.1f}" for low in range(10))  # [0, .1), [.1, .2), ...: the columns of a loss over t
RATES = tuple(round(0.05 + 0.1 * index, 2) for index in range(10))  # at which a probe measures: the windows' centres
ITEM_TASKS = ("hellaswag", "arc_easy")
ITEM_COLUMNS = ("acc", "acc_norm", "nll")
TOKENS_PER_STEP = (1, 2, 4, 8)  # of generation: from one step for every token to one for eight
SOLVED_COLUMNS = tuple(f"solved_{count}" for count in TOKENS_PER_STEP)
EXERCISE_COLUMNS = (*ITEM_COLUMNS, *SOLVED_COLUMNS)
# Ways of writing an answer: the plain algorithm, fewer steps, and the approximate ways of diffusion/sampling.py.
DECODERS: dict[str, dict[str, Any]] = {
    "exact": {},
    "by_2": {"tokens_per_step": 2},
    "by_4": {"tokens_per_step": 4},
    "by_8": {"tokens_per_step": 8},
    "threshold_0.95": {"threshold": 0.95},
    "threshold_0.9": {"threshold": 0.9},
    "threshold_0.8": {"threshold": 0.8},
    "threshold_0.6": {"threshold": 0.6},
    "factor_1": {"factor": 1.0},
    "cached": {"threshold": 0.9, "blocks": 3, "cache": "dual"},
}
SCORED_COLUMNS = (*EXERCISE_COLUMNS, *(f"{what}_{way}" for way in DECODERS for what in ("solved", "passes")))  # of all items


def stays_above(rows: list[Row], metric: str, threshold: float = SOLVED, evaluations: int = 3) -> float:
    """First step from which `metric` is at least `threshold` for `evaluations` evaluations in a row; infinity if never.

    T_mem is this for the training accuracy, T_gen for the validation accuracy.
    """
    for index in range(len(rows) - evaluations + 1):
        if all(row[metric] >= threshold for row in rows[index : index + evaluations]):
            return rows[index]["step"]
    return float("inf")


def summarise_parity(rows: list[Row]) -> list[dict[str, Any]]:
    """What a table says of one run: T_mem, T_gen, their difference and ratio, accuracies, the share of signal masks."""
    memorised, generalised = stays_above(rows, "train_accuracy"), stays_above(rows, "validation_accuracy")
    shares = [row["signal_share"] for row in rows[1:]]
    row = {
        "t_mem": memorised,
        "t_gen": generalised,
        "delay": generalised - memorised if memorised < float("inf") else float("nan"),
        "delay_ratio": generalised / memorised if 0 < memorised < float("inf") else float("nan"),
        "final_train": rows[-1]["train_accuracy"],
        "final_validation": rows[-1]["validation_accuracy"],
        "best_validation": max(row["validation_accuracy"] for row in rows),
        "signal_share": sum(shares) / len(shares) if shares else float("nan"),
        "last_step": rows[-1]["step"],
    }
    return [row]


def suggested_rate(rows: list[Row], measure: str) -> float:
    """The rate at which `measure` ("snr" or "gain") of a probe is largest, in the mean over all probes after step 0."""
    later = [row for row in rows if row["step"] > 0]
    return max(RATES, key=lambda rate: sum(row[f"{measure}_{rate}"] for row in later))
