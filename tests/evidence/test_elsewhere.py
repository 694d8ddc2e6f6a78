"""`mdlm judge`: runs made elsewhere get the verdicts that our own would get; what is missing is said, what is wrong refused."""

import csv
import math
import warnings

import hypothesis
import hypothesis.strategies as st
import pytest

from mdlm_min.cli.main import main
from mdlm_min.evidence import elsewhere, golden, judging, needs, verdicts
from mdlm_min.evidence.elsewhere import Plan
from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import format_number

LASTING = "03_wikitext_lasting"


def text(value):
    """As somebody else would write it: nothing where it was not measured."""
    return value if not isinstance(value, float) else "" if math.isnan(value) else format_number(value)


def write(path, rows):
    """Rows (dicts) as a CSV file."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({name: text(value) for name, value in row.items()} for row in rows)
    return path


class Export:
    """A golden table as the rows of the three files; a test may change them before it judges."""

    def __init__(self, name, tier, folder, belongs=lambda record: True):
        self.experiment, self.tier, self.folder = Experiment(name), tier, folder
        self.golden = golden.accepted(name, tier).part(belongs)
        runs = {name: record["config"] for name, record in self.golden.runs.items()}
        where = {
            name: {"cell": self.golden.runs[name]["cell"], "arm": one["arm"], "seed": one["seed"]} for name, one in runs.items()
        }
        self.table = [{name: value for name, value in row.items() if name not in golden.PROVENANCE} for row in self.golden.rows()]
        self.curves = [{**where[name], **row} for name, rows in self.golden.curves.items() for row in rows]
        self.items = []
        if self.golden.items:
            self.items = [{**where[row["run"]], **row} for row in self.golden.item_frame().to_dict("records")]
            self.items = [{name: value for name, value in row.items() if name != "run"} for row in self.items]

    def files(self):
        """The paths of the files that have rows, None for the others."""
        return [
            write(self.folder / f"{name}.csv", rows) if rows else None
            for name, rows in (("table", self.table), ("curves", self.curves), ("items", self.items))
        ]

    def judge(self):
        """The verdicts by claim."""
        judged = judging.judge(self.experiment, elsewhere.read(self.experiment, self.tier, *self.files()))
        return {claim.id: verdict for claim, verdict in judged}

    def error(self):
        """The line with which the files are refused, without their folder."""
        with pytest.raises(InputError) as refused:
            self.judge()
        assert "\n" not in str(refused.value)
        return str(refused.value).removeprefix(f"{self.folder}/")


@pytest.fixture
def lasting(tmp_path):
    """The four main arms on bytes, five seeds."""
    main_arms = ("uniform", "middle", "uniform_unweighted", "middle_unweighted")
    return Export(LASTING, "cpu", tmp_path, lambda record: record["cell"] == "bytes" and record["config"]["arm"] in main_arms)


def our_own(name, tier):
    table = golden.accepted(name, tier)
    return {claim.id: verdict for claim, verdict in verdicts.judge(Experiment(name), {tier: table}, tier)}


def judged_alone(found):
    return {name: repr(verdict) for name, verdict in found.items() if verdict.verdict != "not run"}


@pytest.mark.parametrize("name", [LASTING, "03_wikitext_bins", "01_parity", "02_uniform_attention",
                                  pytest.param("04_8b_pt", marks=pytest.mark.slow)])  # fmt: skip
def test_our_own_runs_get_our_own_verdicts(name, tmp_path):
    """Every number, interval, p-value and note; and no claim is judged here alone."""
    found, ours = Export(name, "cpu", tmp_path).judge(), our_own(name, "cpu")
    assert found.keys() == ours.keys()
    assert judged_alone(found) == judged_alone(ours)
    assert len(judged_alone(found)) >= 4


def test_rows_in_another_order_say_the_same(lasting):
    before = judged_alone(lasting.judge())
    lasting.table.reverse()
    lasting.curves.sort(key=lambda row: (row["seed"], -row["step"]))
    assert judged_alone(lasting.judge()) == before


@pytest.mark.parametrize(
    "name", ["01_parity", "03_wikitext_bins", "04_8b_pt", "05_8b_sft", "06_information_density", "07_contest"]
)
def test_every_golden_table_is_read(name):
    """Columns that a run did not measure are nan there. What they say is what was published."""
    table = golden.accepted(name, "cpu")
    found = elsewhere.read(Experiment(name), "cpu", golden.RESULTS / name / "cpu" / "table.csv")
    assert found.runs.keys() == table.runs.keys()


def test_a_golden_table_is_read_as_it_stands(capsys):
    assert main(["judge", "wikitext_lasting", str(golden.RESULTS / LASTING / "cpu" / "table.csv")]) == 0
    said = capsys.readouterr().out
    assert f"{len(golden.accepted(LASTING, 'cpu').runs)} runs; " in said and " of 34 claims judged" in said
    assert "\nL1-bytes  reproduced " in f"\n{said}"
    assert "\nwhat the table, --curves and --items hold: mdlm judge wikitext_lasting --columns\n" in said


def test_families_and_the_least_number_of_seeds_are_those_of_our_own_runs(lasting):
    lasting.table += [{**row, "cell": "BPE", "test_loss": row["test_loss"] + 0.01} for row in lasting.table]
    found = lasting.judge()
    alone, both = our_own(LASTING, "cpu")["L1-bytes"], found["L1-bytes"]
    assert both.raw == alone.raw
    assert both.adjusted == pytest.approx(3 * alone.raw)  # its family has three, run or not, and here none is smaller
    lasting.table, lasting.curves = ([row for row in rows if row["seed"] < 7] for rows in (lasting.table, lasting.curves))
    few = lasting.judge()["L1-bytes"]
    assert few.verdict == "underpowered" and "Rests on 4 seeds; at least 5 decide" in few.note


def bad(column, value):
    return lambda export: export.table[1].update({column: value})


REFUSALS = {
    "NaN": (bad("test_loss", "NaN"), "row 3: test_loss is 'NaN'; allowed: a number of at least 0, or nothing (or nan) where it "),
    "a loss below 0": (bad("test_loss", "-2.5"), "row 3: test_loss is '-2.5'; allowed: a number of at least 0, or nothing"),
    "steps below 0": (bad("last_step", "-1"), "row 3: last_step is '-1'; allowed: a number of at least 0, or nothing"),
    "text": (bad("test_loss", "low"), "row 3: test_loss is 'low'; allowed: a number"),
    "infinite": (bad("test_loss", "inf"), "row 3: test_loss is 'inf'; allowed: a number"),
    "underscore": (bad("test_loss", "1_0"), "row 3: test_loss is '1_0'; allowed: a number"),
    "arm": (bad("arm", "centre"), "row 3: arm is 'centre'; allowed: uniform, middle, "),
    "cell": (bad("cell", "words"), "row 3: cell is 'words'; allowed: bytes, BPE, "),
    "seed": (bad("seed", "3.0"), "row 3: seed is '3.0'; allowed: a whole number from 0 to 2^63 - 1"),
    "seed below 0": (bad("seed", "-3"), "row 3: seed is '-3'; allowed"),
    "long seed": (bad("seed", str(2**63)), "row 3: seed is '9223372036854775808'; allowed"),
    "endless seed": (bad("seed", "7" * 5000), "row 3: seed is '77777"),
    "no seed": (bad("seed", ""), "row 3: seed is ''; allowed"),
    "twice": (lambda export: export.table.append(dict(export.table[0])),
              "row 22: uniform, seed 3, in the cell bytes, is there twice, first in row 2"),
    "unknown column": (bad("tset_loss", 1.0), "row 1: the column 'tset_loss' is unknown; allowed: cell, arm, seed, test_loss"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_a_value_that_cannot_be_one_is_refused_with_its_row(case, lasting):
    spoil, message = REFUSALS[case]
    lasting.judge()
    spoil(lasting)
    assert lasting.error().startswith(f"table.csv: {message}")


CURVE_REFUSALS = {
    "NaN": (lambda row: row.update(valid_loss="NaN"), "row 3: valid_loss is 'NaN'; allowed"),
    "infinite": (lambda row: row.update(valid_loss="-inf"), "row 3: valid_loss is '-inf'; allowed"),
    "no step": (lambda row: row.update(step=""), "row 3: step is ''; allowed"),
    "step twice": (lambda row: row.update(step=0.0), "row 3: step 0 of uniform, seed 3, in the cell bytes is there twice"),
    "no such run": (lambda row: row.update(seed=99), "row 3: uniform, seed 99, in the cell bytes is no run of the table"),
    "no such arm": (lambda row: row.update(arm="centre"), "row 3: arm is 'centre'; allowed"),
}


@pytest.mark.parametrize("case", CURVE_REFUSALS)
def test_a_point_of_a_curve_is_refused_with_its_row(case, lasting):
    spoil, message = CURVE_REFUSALS[case]
    spoil(lasting.curves[1])
    assert lasting.error().startswith(f"curves.csv: {message}")


def test_an_infinite_time_is_one_that_never_came(tmp_path):
    export = Export("01_parity", "cpu", tmp_path)
    assert any(row["t_gen"] == math.inf for row in export.table)
    export.table[0]["best_validation"] = math.inf
    assert export.error().startswith("table.csv: row 2: best_validation is 'inf'; allowed: a number in [0,1], or nothing")
    export.table[0]["best_validation"] = 99.5
    assert export.error().startswith("table.csv: row 2: best_validation is '99.5'; allowed: a number in [0,1], or nothing")
    export.table[0].update(best_validation=1.0, t_gen=-math.inf)
    allowed = "a number of at least 0, inf where it never came, or nothing"
    assert export.error().startswith(f"table.csv: row 2: t_gen is '-inf'; allowed: {allowed}")
    export.table[0].update(t_gen=6000, last_step=5950)
    assert export.error().startswith("table.csv: row 2: t_gen is '6000'; allowed: up to last_step, 5950, or inf where it never")


def test_a_run_may_never_have_generalised_where_no_run_of_ours_is_there(tmp_path):
    """No golden table of 06 has a row of parity."""
    rows = [
        {"cell": "track=parity", "arm": arm, "seed": seed, "t_90": time, "signal_share": 0.1, "last_step": 6000}
        for arm, times in (("uniform", (820, 900, 850, 990, 870, 840, 910, 880)), ("density", [math.inf] * 8))
        for seed, time in enumerate(times)
    ]
    experiment = Experiment("06_information_density")
    found = dict(judging.judge(experiment, elsewhere.read(experiment, "cpu", write(tmp_path / "table.csv", rows))))
    said = next(verdict for claim, verdict in found.items() if claim.id == "D1-parity")
    assert said.verdict == "reproduced" and said.ours == 1


def test_copies_of_one_run_are_no_seeds(lasting):
    first = next(row for row in lasting.table if row["arm"] == "middle")
    measured = {name: value for name, value in first.items() if name not in ("cell", "arm", "seed")}
    for row in lasting.table:
        row.update(measured if row["arm"] == "middle" else {})
    for row in lasting.table:  # to so few digits that two may be equal by chance, but not all
        row.update({name: round(value, 3) for name, value in row.items() if isinstance(value, float)})
    wanted = "copies of one run; allowed: a run of its own for each seed"
    assert (said := lasting.error()).endswith(wanted)
    assert said.startswith("table.csv: rows 3, 7, 11, 15, 19: test_loss is ")
    for place, row in enumerate(row for row in lasting.table if row["arm"] == "middle"):
        row["test_t0.9"] += place * 1e-6
    lasting.judge()


def test_one_run_under_two_seeds_or_two_arms_is_refused(lasting):
    measured = {name: value for name, value in lasting.table[1].items() if name not in ("cell", "arm", "seed")}
    kept = dict(lasting.table[6])
    lasting.table[6].update(measured)
    assert lasting.error() == (
        "table.csv: row 8: uniform_unweighted, seed 4, in the cell bytes, has the values of middle, seed 3, in the cell bytes, "
        "row 3: copies of one run; allowed: a run of its own for each seed and arm"
    )
    lasting.table[6].update(kept)
    for row in lasting.table:  # what is rounded may be equal by chance
        row.update({name: round(value, 3) for name, value in row.items() if isinstance(value, float)})
    lasting.table[6].update({name: lasting.table[1][name] for name in measured})
    lasting.judge()
    for value in (3.451171875, 0.2353515625):  # float16 and bfloat16, with many decimals
        lasting.table[1].update(test_loss=value)
        lasting.table[6].update(test_loss=value)
        lasting.judge()


def test_a_curve_that_stands_for_two_seeds_is_no_curve_of_either(lasting):
    first = {row["step"]: row for row in lasting.curves if (row["arm"], row["seed"]) == ("middle", 3)}
    copied = [row for row in lasting.curves if (row["arm"], row["seed"]) == ("middle", 6)]
    for row in copied:
        row.update({**first[row["step"]], "seed": 6})
    assert lasting.error() == (
        "curves.csv: middle, seed 6, in the cell bytes, has the curve of seed 3: copies of one run; allowed: a run of its "
        "own for each seed"
    )
    copied[-1]["valid_loss"] += 1e-6
    lasting.judge()


def test_what_is_legitimately_equal_in_all_seeds_is_no_copy(tmp_path):
    rows = [
        {"cell": "n=12_k=5_N=600", "arm": arm, "seed": seed, "t_mem": 150, "t_gen": math.inf, "final_validation": 1.0,
         "best_validation": 1.0, "last_step": 12000}
        for arm in ("output", "md_0.2") for seed in range(5)
    ]  # fmt: skip
    experiment = Experiment("01_parity")
    cell = Plan.of(experiment, "cpu").cells[0]
    table = write(tmp_path / "table.csv", [row | {"cell": cell} for row in rows])
    assert len(elsewhere.read(experiment, "cpu", table).runs) == 10


FILES = {
    "empty": (b"", "row 1: there is no column cell; needed: cell, arm, seed"),
    "header alone": (b"cell,arm,seed,test_loss\n", "has no rows"),
    "header and empty lines": (b"cell,arm,seed,test_loss\n\n\n", "has no rows"),
    "no arm": (b"cell,seed\nbytes,1\n", "row 1: there is no column arm; needed: cell, arm, seed"),
    "column twice": (b"cell,arm,seed,arm\nbytes,middle,1,middle\n", "row 1: the column 'arm' is there twice"),
    "more values": (b"cell,arm,seed\nbytes,middle,1\nbytes,middle,2,3\n", "row 3: 4 values; allowed: 3, one for each column"),
    "fewer values": (b"cell,arm,seed\n\nbytes,middle\n", "row 3: 2 values; allowed: 3, one for each column"),
    "not text": (b"cell,arm,seed\n\xff,middle,1\n", "cannot be read ("),
    "an open quote": (b'cell,arm,seed\n"bytes,middle,1\n', "cannot be read ("),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_table_is_refused(case, tmp_path, capsys):
    content, message = FILES[case]
    (tmp_path / "table.csv").write_bytes(content)
    assert main(["judge", LASTING, str(tmp_path / "table.csv")]) == 2
    assert capsys.readouterr().err.startswith(f"mdlm: {tmp_path}/table.csv: {message}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wikitext_lasting"], "table: is missing; needed: a CSV file, or --columns"),
        (["wikitext_lasting", "none.csv"], "none.csv: cannot be read (No such file or directory)"),
        (["wikitext_lasting", "none.csv", "--columns"], "table: with --columns nothing is judged"),
        (["wikitext_lasting", "none.csv", "--tier", "huge"], "tier: 'huge' is unknown in 03_wikitext_lasting"),
        (["wikitext_bins", "none.csv", "--tier", "gpu"], "tier: no claim of 03_wikitext_bins on trained models is about "
         "tier gpu; allowed: paper, cpu"),
        (["theory", "none.csv"], "tier: no claim of 00_theory on trained models is about tier cpu; allowed: none"),
        (["lasting", "none.csv"], "experiment: 'lasting' is unknown"),
    ],
)  # fmt: skip
def test_a_command_that_cannot_be_done_is_refused(arguments, message, capsys):
    assert main(["judge", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"mdlm: {message}")


def drop(rows, **keys):
    """The rows that do not have all of these values."""
    return [row for row in rows if any(row[name] != value for name, value in keys.items())]


def without_middle(export):
    export.table, export.curves = drop(export.table, arm="middle"), drop(export.curves, arm="middle")


def unmeasured(export):
    export.table[1]["test_loss"] = math.nan
    assert (export.table[1]["arm"], export.table[1]["seed"]) == ("middle", 3)


def one_metric(export):
    next(row for row in export.curves if row["arm"] == "middle" and row["step"] > 0)["valid_loss"] = math.nan


def another_seed(export):
    for rows in (export.table, export.curves):
        for row in rows:
            row["seed"] += row["arm"] == "middle"


def other_steps(export):
    for row in export.curves:
        row["step"] += row["arm"] == "middle"


def one_seed(export):
    for name in ("table", "curves"):
        rows = getattr(export, name)
        setattr(export, name, [row for row in rows if row["arm"] != "middle" or row["seed"] == 3])


def a_seed_less(export):
    for name in ("table", "curves"):
        setattr(export, name, drop(getattr(export, name), arm="middle", seed=3))


LACKS = {
    "arm": (without_middle, "L1-bytes", "needs the arm middle in the cell bytes", ["N1", "L2-bytes"]),
    "curves": (lambda export: export.curves.clear(), "L3-bytes", "needs the curves of uniform, seed 3, in the cell bytes",
               ["L1-bytes", "L2-bytes", "N5-bytes"]),
    "one curve": (lambda export: setattr(export, "curves", drop(export.curves, arm="middle", seed=5)), "L4-bytes",
                  "needs the curves of middle, seed 5, in the cell bytes", ["L1-bytes", "N1"]),
    "column": (lambda export: [row.pop("test_loss") for row in export.table], "L1-bytes",
               "needs the column test_loss of the table", ["L4-bytes"]),
    "one value": (unmeasured, "L1-bytes", "needs test_loss of middle, seed 3, in the cell bytes", ["L2-bytes", "L4-bytes"]),
    "metric": (one_metric, "L4-bytes", "needs valid_loss in the curves of middle, seed 3, in the cell bytes, step ",
               ["L1-bytes", "N1"]),
    "seeds": (another_seed, "L1-bytes", "needs the same seeds in both of middle, in the cell bytes (4, 5, 6, 7, 8) and uniform, "
              "in the cell bytes (3, 4, 5, 6, 7)", ["L2-bytes", "N1"]),
    "one seed": (one_seed, "L1-bytes", "needs the same seeds in both of middle, in the cell bytes (3) and uniform, in the "
                 "cell bytes (3, 4, 5, 6, 7)", ["L2-bytes", "N1"]),
    "a seed less": (a_seed_less, "L1-bytes", "needs the same seeds in both of middle, in the cell bytes (4, 5, 6, 7) and "
                    "uniform, in the cell bytes (3, 4, 5, 6, 7)", ["L2-bytes", "N1"]),
    "steps": (other_steps, "L4-bytes", "needs curves at the same steps in both of ", ["L1-bytes", "N1"]),
}  # fmt: skip


def test_every_arm_that_a_claim_lacks_is_named_at_once(lasting):
    for arm in ("middle", "uniform"):
        lasting.table = drop(lasting.table, arm=arm)
        lasting.curves = drop(lasting.curves, arm=arm)
    assert lasting.judge()["L1-bytes"].note.startswith("needs the arms uniform, middle in the cell bytes")


@pytest.mark.parametrize("case", LACKS)
def test_what_a_claim_lacks_is_said_and_the_others_are_judged(case, lasting):
    spoil, claim, message, others = LACKS[case]
    before = lasting.judge()
    assert before[claim].verdict != "not run"
    spoil(lasting)
    found = lasting.judge()
    assert found[claim].verdict == "not run"
    assert found[claim].note.startswith(message)
    assert {name: found[name].ours for name in others} == {name: before[name].ours for name in others}


@pytest.mark.slow
def test_items_are_needed_where_a_claim_is_about_items(tmp_path):
    export = Export("04_8b_pt", "cpu", tmp_path)
    items = export.items
    export.items = []
    assert export.judge()["B2-hellaswag-L"].note == "needs the items"
    export.items = drop(items, arm="middle")
    assert export.judge()["B2-hellaswag-L"].note.startswith("needs the items of the arm ")
    export.items = [*items, items[0]]
    assert "is there twice" in export.error()


@pytest.mark.parametrize("source", ["table", "curves"])
def test_the_listed_columns_are_those_that_are_needed(source, lasting):
    """Without a column exactly the claims that are said to read it are not judged; without all that no claim reads, all are."""
    whole = judged_alone(lasting.judge())
    found = needs.needs(lasting.experiment, "cpu")
    rows = [dict(row) for row in getattr(lasting, source)]
    read = {name for need in found for name in need.names[source]}
    names = [name for name in rows[0] if name not in ("cell", "arm", "seed", "step")]
    for gone in [{name for name in names if name not in read}, *({name} for name in names if name in read)]:
        setattr(lasting, source, [{key: value for key, value in row.items() if key not in gone} for row in rows])
        readers = {need.claim.id for need in found if gone & set(need.names[source])}
        assert judged_alone(lasting.judge()).keys() == whole.keys() - readers, gone


def test_the_listed_arms_are_those_that_are_needed(lasting):
    whole = judged_alone(lasting.judge())
    found = needs.needs(lasting.experiment, "cpu")
    rows = lasting.table, lasting.curves
    for arm in ("uniform", "middle", "uniform_unweighted", "middle_unweighted"):
        lasting.table, lasting.curves = (drop(one, arm=arm) for one in rows)
        readers = {need.claim.id for need in found if arm in need.arms.get("bytes", [])}
        assert judged_alone(lasting.judge()).keys() == whole.keys() - readers, arm


TIERS = [
    (folder.name, tier)
    for folder in experiment_folders()
    for tier in Experiment(folder.name).plan["tiers"]
    if any(claim.tier == tier and claim.kind != "exact" for claim in Experiment(folder.name).module("claims").CLAIMS)
]  # fmt: skip


@pytest.mark.parametrize(("name", "tier"), TIERS)
def test_every_claim_on_trained_models_says_what_it_reads(name, tier):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = needs.needs(Experiment(name), tier)
    for need in found:
        assert any(need.names.values()), need.claim.id
        assert need.arms, need.claim.id


def test_what_claims_read_is_said_without_any_results_too(tmp_path, monkeypatch):
    with_results = {name: [need.arms for need in needs.needs(Experiment(name), "cpu")] for name in ("04_8b_pt", "05_8b_sft")}
    monkeypatch.setattr(golden, "RESULTS", tmp_path)
    assert with_results == {name: [need.arms for need in needs.needs(Experiment(name), "cpu")] for name in with_results}


def test_an_arm_that_only_a_note_reads_is_listed_as_such(capsys):
    assert main(["judge", "wikitext_bins", "--columns"]) == 0
    lines = capsys.readouterr().out.splitlines()
    where = "autoregressive, unigram, bigram in the cell tokenizer=bytes; for its note, where they are there"
    assert any(line.split() == ["W2-bytes", *where.split()] for line in lines)
    unit = "nats per token, the mean over all mask rates in [0,1]"
    assert any(line.startswith(f"  test_loss  a number of at least 0 ({unit}); read by W1-bytes, W2-bytes,") for line in lines)
    assert any(line.split(maxsplit=1) == ["middle", 'mask_rate = "U[0.45,0.55]", weight = "1/t"'] for line in lines)
    assert any(line.startswith("  cell  one of tokenizer=bytes, ") for line in lines)


@pytest.mark.parametrize("value", [1e308, 1e-320, 0.0, 1e17])
def test_extreme_numbers_end_in_a_verdict_or_in_one_line(value, lasting):
    for row in lasting.table:
        row["test_loss"] = value if row["arm"] == "middle" else row["test_loss"]
    for row in lasting.curves:
        row["valid_loss"] = value if row["arm"] == "middle" else row["valid_loss"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows
        try:
            assert set(lasting.judge()) == set(our_own(LASTING, "cpu"))
        except InputError as error:
            assert "the rules cannot be applied to this table" in str(error)


CELLS = st.sampled_from(["bytes", "BPE", "", "x", "middle", "uniform", "3", "4", "nan", "inf", "-1", "1e999", "2.5", '"', "\x00"])


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.lists(st.sampled_from(["cell", "arm", "seed", "test_loss", "valid_loss", "seconds", "x"]), max_size=6),
    st.lists(st.lists(CELLS, max_size=6), max_size=6),
)
def test_any_file_is_judged_or_refused(tmp_path_factory, header, rows):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_text("\n".join(",".join(line) for line in [header, *rows]))
    experiment = Experiment(LASTING)
    try:
        judging.judge(experiment, elsewhere.read(experiment, "cpu", path))
    except InputError as error:
        assert str(path) in str(error)
