import json
import re
from itertools import islice

import pytest

from mdlm_min.data.arithmetic import LARGEST, arithmetic
from mdlm_min.data.exercises import CHOICES, gsm8k, result_of
from mdlm_min.run.errors import InputError


def is_right(answer):
    """Whether every step of a worked answer is, by Python's own arithmetic."""
    working, _, end = answer.partition("#")
    steps = [step.split("=") for step in working.split(",")]
    return all(eval(left) == int(right) for left, right in steps) and int(end) == int(steps[-1][1])


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_arithmetic_is_right_and_its_choices_are_wrong(steps):
    for exercise in islice(arithmetic(f"arithmetic:{steps}"), 300):
        assert is_right(exercise.answer)
        assert eval(exercise.question) == int(result_of(exercise.answer))
        assert exercise.answer.count("=") == steps
        assert len(set(exercise.choices)) == CHOICES
        for wrong in exercise.choices[1:]:
            assert not is_right(wrong)
            assert result_of(wrong) != result_of(exercise.answer)
            assert all(0 <= int(number) <= LARGEST for number in re.findall(r"\d+", wrong))


def test_arithmetic_is_the_same_for_everyone_and_without_repetition():
    made = list(arithmetic("arithmetic:2:600"))
    assert made == list(arithmetic("arithmetic:2:600"))
    assert len({exercise.question for exercise in made}) == 600
    assert made[:100] == list(arithmetic("arithmetic:2:100"))


def test_one_step_gives_all_facts():
    assert len({exercise.question for exercise in arithmetic("arithmetic:1")}) == 90  # of 10 x 18, those from 0 to 9
    assert len(list(arithmetic("arithmetic:1:90"))) == 90
    with pytest.raises(InputError, match="'arithmetic:1:91': there are not as many different exercises; ask for fewer than 91"):
        list(arithmetic("arithmetic:1:91"))


@pytest.mark.parametrize("name", ["arithmetic:", "arithmetic:0", "arithmetic:9", "arithmetic:2:0", "arithmetic:two"])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(InputError, match="allowed: arithmetic:STEPS or arithmetic:STEPS:COUNT, 1 to 6 steps"):
        list(arithmetic(name))


def test_more_exercises_than_there_are_is_refused():
    with pytest.raises(InputError, match="ask for fewer than 800"):
        list(arithmetic("arithmetic:2:800"))


@pytest.mark.parametrize(
    ("answer", "result"),
    [("2+3=5#5", "5"), ("so\n#### 1,234", "1234"), ("#### -3", "-3"), ("#1#2", "2"), ("no mark 5", ""), ("#", ""), ("#x", "")],
)
def test_the_result_stands_behind_the_last_mark(answer, result):
    assert result_of(answer) == result


def test_gsm8k_is_read_whole_without_its_calculator_notes(data_folder):
    found = [exercise for _, exercise in gsm8k()]
    assert len(found) == 7473
    assert not any(isinstance(exercise, str) or "<<" in exercise.answer for exercise in found)
    first = found[0]
    assert first.answer.endswith("altogether in April and May.\n#### 72")
    for exercise in found:
        assert len(set(exercise.choices)) == CHOICES
        assert not {result_of(wrong) for wrong in exercise.choices[1:]} & {result_of(exercise.answer)}


def test_gsm8k_s_wrong_results_are_near_the_right_one_and_differ_between_questions(tmp_path, monkeypatch):
    (tmp_path / "gsm8k").mkdir()
    records = [{"question": f"{index}?", "answer": "#### 3"} for index in range(50)]
    (tmp_path / "gsm8k" / "train.jsonl").write_text("\n".join(map(json.dumps, records)))
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    found = {exercise.choices[1:] for _, exercise in gsm8k()}
    assert sorted(int(result_of(first)) for first, *_ in found) == [1, 2, 4, 5, 6, 8, 13]
    assert not any("-" in wrong for choices in found for wrong in choices)


def test_gsm8k_without_its_file_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"data.source: gsm8k needs gsm8k/train.jsonl \(or .gz\) in the folder that MDLM_DATA"):
        list(gsm8k())


def test_a_record_that_is_no_exercise_is_named_by_its_line(tmp_path, monkeypatch):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text('{"question": "1?", "answer": "#### 1"}\n{"question": "2?", "answer": "2"}\n')
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    (_, good), (where, bad) = gsm8k()
    assert good.choices[0] == "#### 1"
    assert (where, bad) == ("train.jsonl line 2", "no exercise (ValueError: the answer has no #### and number)")


@pytest.mark.parametrize("record", ['{"question": 5, "answer": "#### 3"}', '{"question": "2?", "answer": "\\ud800 #### 3"}'])
def test_a_record_that_is_no_text_is_no_exercise(tmp_path, monkeypatch, record):
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text(f"{record}\n")
    monkeypatch.setenv("MDLM_DATA", str(tmp_path))
    assert list(gsm8k()) == [("train.jsonl line 1", "no exercise (ValueError: question and answer are no text)")]
