"""What runs measured, in a line for each arm, beside what the golden table has of the same configurations and seeds."""

import math
from collections.abc import Collection

from mdlm_min.evidence.golden import Table


def measured(table: Table, accepted: Table | None, columns: Collection[str]) -> list[str]:
    """Means over seeds of these columns, for each cell and arm; nothing of a table whose rows are quantities, not runs."""
    frame = table.frame()
    if "quantity" in frame:
        return []
    same = ["cell", "arm", "seed", "config_sha256"]
    both = frame[same].merge(accepted.frame(), on=same) if accepted and accepted.runs else frame[:0]
    lines = []
    for (cell, arm), rows in frame.groupby(["cell", "arm"], sort=False):
        golden = both[(both["cell"] == cell) & (both["arm"] == arm)]
        shown = []
        for column in columns:
            theirs = golden[column].mean() if column in golden and len(golden) == len(rows) else math.nan
            beside = "" if math.isnan(theirs) else f" (golden table: {theirs:.4g})"
            shown.append(f"{column} {rows[column].mean():.4g}{beside}")
        seeds = rows["seed"].nunique()
        lines.append(f"{f'{cell} {arm}'.strip()}, {seeds} seed{'s' * (seeds > 1)}: {', '.join(shown)}")
    return lines
