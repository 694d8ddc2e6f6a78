"""The offline tasks give lm-eval the prompts and answers of its own tasks on the same records."""

from pathlib import Path

import lm_eval.tasks
import pytest
from datasets import Dataset
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from mdlm_min.data.items import STEM, items_file, read_items, read_records
from mdlm_min.evaluation.paper_tasks import OFFLINE, PAPER_TASKS
from mdlm_min.run.errors import InputError

THEIRS = Path(lm_eval.tasks.__file__).parent


def requests(task, limit=3):
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    return [(instance.args, instance.doc_id, task.doc_to_target(instance.doc)) for instance in task.instances]


def ours(name, shots=None):
    [task] = TaskManager(include_path=str(OFFLINE), include_defaults=False).load([name])["tasks"].values()
    if shots is not None:
        task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    return task


def theirs(path, shots=None, **splits):
    """lm-eval's own task on these records."""
    config = {name: value for name, value in load_yaml(THEIRS / path).items() if name not in ("dataset_path", "dataset_name")}
    data = {split: Dataset.from_list(records) for split, records in splits.items()}
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: data})
    if shots is not None:
        task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    return task


def test_prompts_and_answers_are_lm_eval_s_own(tiny_data):
    swag = list(read_records(items_file("hellaswag")))
    assert requests(ours("hellaswag_local")) == requests(theirs("hellaswag/hellaswag.yaml", train=swag, validation=swag))
    for name in ("arc_easy", "arc_challenge"):
        records = list(read_records(items_file(name)))
        expected = requests(theirs(f"arc/{name}.yaml", train=records, validation=records, test=records))
        found = requests(ours(f"{name}_local"))
        assert [(args, number) for args, number, _ in found] == [(args, number) for args, number, _ in expected]
        assert [str(target) for *_, target in found] == [str(target) for *_, target in expected]
    sums = {split: list(read_records(items_file(f"gsm8k_{split}"))) for split in ("train", "test")}
    assert requests(ours("gsm8k_local", 2)) == requests(theirs("gsm8k/gsm8k.yaml", 2, **sums))
    own, other = ours("gsm8k_local").config, theirs("gsm8k/gsm8k.yaml", **sums).config
    assert (own.filter_list, own.metric_list, own.num_fewshot) == (other.filter_list, other.metric_list, other.num_fewshot)


def test_mmlu_has_five_examples_of_the_subject_as_lm_eval_has_them(tiny_data):
    for file in (tiny_data / "mmlu").iterdir():  # as many examples as lm-eval takes
        file.write_text(file.read_text() * 2)
    found = requests(ours("mmlu_local"), limit=None)
    assert len(found) == 2 * 8 * 4
    for first, subject in ((0, "astronomy"), (16, "world_religions")):
        splits = {
            split: [record for record in read_records(items_file(name)) if record["subject"] == subject]
            for split, name in (("test", "mmlu"), ("dev", "mmlu_dev"))
        }
        expected = requests(theirs(f"mmlu/default/mmlu_{subject}.yaml", 5, **splits), limit=1)
        assert found[first : first + 4] == [(args, number + first // 4, target) for args, number, target in expected]
    assert {args[0].splitlines()[0].split(" about ")[1] for args, *_ in requests(ours("mmlu_stem_local"), None)} == {"astronomy."}


def test_stem_is_lm_eval_s_group():
    files = (THEIRS / "mmlu" / "default").glob("mmlu_*.yaml")
    tagged = {path.stem.removeprefix("mmlu_") for path in files if load_yaml(path).get("tag") == "mmlu_stem_tasks"}
    assert tagged == STEM


def test_the_paper_s_tasks_are_known_to_lm_eval_and_have_their_offline_files():
    names = {one.offline for one in PAPER_TASKS.values() if one.offline}
    assert names == {path.stem for path in OFFLINE.glob("*.yaml")}
    folders = {"arc_easy": "arc", "arc_challenge": "arc", "mmlu": "mmlu/default", "mmlu_stem": "mmlu/default"}
    folders |= {"gpqa_main_n_shot": "gpqa", "minerva_math": "benchmarks"}
    for task in (one.task for one in PAPER_TASKS.values()):
        lines = {line for path in (THEIRS / folders.get(task, task)).rglob("*.yaml") for line in path.read_text().splitlines()}
        assert lines & {f"task: {task}", f"group: {task}"}, task


def test_what_is_missing_or_damaged_is_named(tiny_data):
    (tiny_data / "mmlu" / "test.jsonl").write_text('{"subject": "astronomy", "question": "?", "choices": ["a"], "answer": 0}\n')
    with pytest.raises(InputError, match=r"test.jsonl: item 1 cannot be read \(ValueError"):
        list(read_items("mmlu"))
    (tiny_data / "mmlu" / "test.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match=r"test.jsonl line 1: \[1\] is no JSON object"):
        list(read_items("mmlu"))
    (tiny_data / "mmlu" / "dev.jsonl").unlink()
    with pytest.raises(InputError, match="items: mmlu_dev needs mmlu/dev.jsonl"):
        items_file("mmlu_dev")


def test_the_real_files_have_the_paper_s_items(data_folder):
    for name, count in (("arc_challenge", 1172), ("arc_easy", 2376)):
        assert len(list(read_items(name))) == count == PAPER_TASKS[name].items
    stem = [record for record in read_records(items_file("mmlu")) if record["subject"] in STEM]
    assert len(stem) == PAPER_TASKS["mmlu_stem"].items


@pytest.mark.parametrize(("field", "name"), [("output", "a_file"), ("cache", "a_file/cache")])
def test_what_cannot_be_written_is_refused_before_the_evaluation(field, name, tmp_path):
    from mdlm_min.evaluation.run import Request

    (tmp_path / "a_file").write_text("text")
    settings = {"output": tmp_path / "out", field: tmp_path / name if field == "output" else str(tmp_path / name)}
    with pytest.raises(InputError, match=f"{field}: .*allowed: "):
        Request(("arc_easy",), **settings)
