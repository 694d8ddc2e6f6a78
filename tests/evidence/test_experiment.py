import pytest

from mdlm_min.evidence.experiment import Experiment, experiment_folders
from mdlm_min.evidence.plan_file import TIERS, cells
from mdlm_min.run.config import build
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.language import LanguageRunConfig
from mdlm_min.tasks.parity import ParityRunConfig

ON_PARITY = ("01_parity", "01_parity_map", "02_uniform_attention")


@pytest.mark.parametrize("name", [folder.name for folder in experiment_folders()])
def test_every_experiment_is_complete_and_its_runs_are_distinct(name):
    experiment = Experiment(name)
    assert (experiment.folder / "README.md").read_text().startswith("# ")
    assert {"smoke", "cpu"} <= set(experiment.plan["tiers"]) <= set(TIERS)
    for tier in experiment.plan["tiers"]:
        specs = experiment.runs(tier, arms="all")
        assert len({spec.name for spec in specs}) == len(specs) > 0
        assert len({str(sorted(spec.config.items())) for spec in specs}) == len(specs)


@pytest.mark.parametrize("name", ON_PARITY)
def test_every_configuration_on_parity_is_valid(name):
    for tier in Experiment(name).plan["tiers"]:
        for spec in Experiment(name).runs(tier, arms="all", seeds=1):
            build(ParityRunConfig, {key: value for key, value in spec.config.items() if key not in ("arm", "seed")})


def test_names_may_be_short():
    assert Experiment("parity").name == Experiment("01_parity").name == "01_parity"


def test_arms_and_seeds_can_be_chosen():
    experiment = Experiment("parity")
    assert [spec.name for spec in experiment.runs("smoke", "secret,output", 1)] == ["secret/seed0", "output/seed0"]
    assert {spec.arm for spec in experiment.runs("cpu", "all")} == set(experiment.plan["arms"])
    of_cell = {"train_samples=600": {4, 5, 6}, "N600-fresh": {40, 41, 42}}
    for cell, seeds in of_cell.items():
        assert {spec.seed for spec in experiment.runs("cpu", seeds=3, only=cell)} == seeds


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Experiment("poker"), "experiment: 'poker' is unknown; allowed: 00_theory"),
        (lambda: Experiment("parity").runs("huge"), "tier: 'huge' is unknown in 01_parity; allowed: smoke"),
        (lambda: Experiment("parity").runs("cpu", "md_0.7"), "arms: 'md_0.7' is unknown in 01_parity; allowed: all, output"),
        (lambda: Experiment("parity").runs("cpu", seeds=-1), "seeds: -1 is not allowed"),
    ],
)
def test_unknown_names_are_refused_with_what_is_allowed(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_grid_blocks_multiply_and_join():
    found = cells([{"data.n": [1, 2], "width": [3]}, {"arms": ["masked"], "mask_rate": ["U[0,1]"]}])
    assert [cell.name for cell in found] == ["n=1_width=3", "n=2_width=3", "mask_rate=U[0,1]"]
    assert found[1].settings == {"data": {"n": 2}, "width": 3}
    assert found[0].arms == ()
    assert found[2].arms == ("masked",)
    assert [cell.name for cell in cells([])] == [""]


def test_a_block_may_have_its_own_name_arms_and_seeds():
    [cell] = cells([{"name": "small", "width": [3], "arms": ["a"], "seeds": 1}])
    assert (cell.name, cell.settings, cell.arms, cell.seeds) == ("small", {"width": 3}, ("a",), 1)


def test_blocks_with_one_cell_join_and_their_seeds_differ():
    specs = Experiment("wikitext_bins").runs("cpu")
    bytes_cell = [spec for spec in specs if spec.cell == "tokenizer=bytes"]
    assert {spec.seed for spec in bytes_cell if spec.arm == "middle"} == {3, 4, 5, 6, 7}
    assert {spec.seed for spec in bytes_cell if spec.arm == "bigram"} == {3}
    assert {spec.seed for spec in specs if spec.cell == "parities"} == set(range(8, 16))
    few = Experiment("wikitext_bins").runs("cpu", seeds=2)
    assert {spec.seed for spec in few if spec.cell == "tokenizer=bytes"} == {3, 4}
    assert {spec.seed for spec in few if spec.arm == "bigram"} == {3}
    assert {spec.seed for spec in few if spec.cell.startswith("tokenizer=bytes_learning_rate")} == {0}


def test_a_corpus_of_the_user_s_own_replaces_the_experiment_s():
    specs = Experiment("wikitext_bins").runs("cpu", corpus="mine.txt")
    assert {spec.config["data"]["corpus"] for spec in specs} == {"mine.txt"}
    assert "parities" not in {spec.cell for spec in specs}
    with pytest.raises(InputError, match="text: 01_parity has no corpus to replace"):
        Experiment("parity").runs("cpu", corpus="mine.txt")


def test_every_configuration_on_text_is_valid():
    experiment = Experiment("wikitext_bins")
    for tier in experiment.plan["tiers"]:
        for spec in experiment.runs(tier, arms="all", seeds=1):
            if spec.config["kind"] in ("masked", "probe", "autoregressive"):
                build(LanguageRunConfig, {key: value for key, value in spec.settings.items() if key != "kind"})


def test_a_bad_setting_is_found_before_anything_is_written(tmp_path, monkeypatch):
    from dataclasses import replace

    from mdlm_min.evidence.sweep import sweep

    good, bad = Experiment("parity").runs("smoke", "output,md_0.3", 1)
    bad = replace(bad, config={**bad.config, "mask_rate": "U[0.5,0.2]"})
    with pytest.raises(InputError, match=r"md_0.3/seed0: mask_rate: 'U\[0.5,0.2\]'"):
        sweep([good, bad], tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="a GPU is here")
def test_a_missing_gpu_is_named():
    experiment = Experiment("parity_map")
    with pytest.raises(InputError, match=r"output/seed0: device: 'cuda' is not available on this machine; allowed: cpu"):
        experiment.check(experiment.runs("paper"))


def test_cells_of_which_no_run_is_left_are_refused():
    with pytest.raises(InputError, match="cells: no run is left of 'nearest-400000' of 01_parity, tier paper; allowed"):
        Experiment("parity").runs("paper", arms="md_0.2", only="nearest-400000")
    bins = Experiment("wikitext_bins")
    cell = next(spec.cell for spec in bins.runs("cpu") if "corpus=wikitext-2_" in spec.cell)
    with pytest.raises(InputError, match="no run is left of .*; allowed: cells that name no corpus, with --text"):
        bins.runs("cpu", corpus="mine.txt", only=cell)
