import gzip
import json

import pytest
import torch

from mdlm_min.data.chat import ChatTemplate
from mdlm_min.data.conversations import ChatConfig, Conversations, collated, default_held_out
from mdlm_min.data.tokenizer import Bytes
from mdlm_min.run.errors import InputError

TEMPLATE = ChatTemplate(Bytes())
END, TURN = TEMPLATE.special.end, TEMPLATE.special.end_turn


def talk(question, *rest):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[index % 2], "content": text} for index, text in enumerate((question, *rest))]}


def write(path, records):
    with gzip.open(path, "wb") if path.suffix == ".gz" else path.open("wb") as file:
        for record in records:
            file.write((record if isinstance(record, bytes) else json.dumps(record).encode()) + b"\n")
    return str(path)


def opened(source, **changes):
    return Conversations(ChatConfig(**{"source": str(source), "length": 64, "held_out": 1, **changes}), TEMPLATE)


def texts(samples):
    return {(TEMPLATE.tokenizer.decode([t for t in s.prompt if t < 256]), TEMPLATE.answer(s.answer)) for s in samples}


def test_samples_are_prompts_in_the_template_and_answers_that_end_their_turn(tmp_path):
    source = write(tmp_path / "a.jsonl.gz", [talk("one", "1"), talk("two", "22")])
    found = opened(source)
    (sample,) = found.train
    asked, answered = ("one", "1") if TEMPLATE.answer(sample.answer) == "1" else ("two", "22")
    assert sample.prompt.tolist() == TEMPLATE.render([{"role": "user", "content": asked}], add_generation_prompt=True)
    assert sample.answer.tolist() == [*answered.encode(), TURN]
    assert found.report["records"] == 2


def test_the_last_answer_or_each_of_them(tmp_path):
    source = write(tmp_path / "a.jsonl", [talk("a", "1", "b", "2", "more"), talk("c", "3")])
    last, each = opened(source, length=256), opened(source, answers="each", length=256)
    assert {answer for _, answer in texts(last.train + last.held_out)} == {"2", "3"}
    assert {answer for _, answer in texts(each.train + each.held_out)} == {"1", "2", "3"}
    by_answer = {TEMPLATE.answer(sample.answer): sample for sample in each.train + each.held_out}
    whole = TEMPLATE.render(talk("a", "1", "b", "2")["messages"], add_generation_prompt=False)
    assert [*by_answer["2"].prompt, *by_answer["2"].answer] == whole
    assert len(by_answer["1"].prompt) < len(by_answer["2"].prompt)


def test_empty_lines_and_fields_that_say_nothing_are_no_fault(tmp_path):
    source = write(tmp_path / "a.jsonl", [talk("a", "1"), b"  ", talk("b", "2"), b""])
    assert opened(source).report["records"] == 2
    more = {"role": "assistant", "content": "y", "weight": 1, "tool_calls": [], "refusal": None, "name": ""}
    source = write(tmp_path / "b.jsonl", [talk("a", "1"), {"messages": [{"role": "user", "content": "x"}, more]}])
    assert opened(source).report["malformed"] == 0


def test_a_question_is_on_one_side_under_every_system_s_turn(tmp_path):
    records = [talk(f"question {index % 6}", "1") for index in range(24)]
    for index, record in enumerate(records):
        record["messages"].insert(0, {"role": "system", "content": f"system {index // 6}"})
    found = opened(write(tmp_path / "a.jsonl", records), held_out=2, length=512)
    train, held_out = ({prompt.split("question")[1][:2] for prompt, _ in texts(side)} for side in (found.train, found.held_out))
    assert (len(train), len(held_out), len(found.held_out)) == (4, 2, 8)
    assert not train & held_out
    assert default_held_out(str(tmp_path / "a.jsonl")) == 1  # a tenth of the questions, not of the 24 records


@pytest.mark.parametrize("answers", ["last", "each"])
def test_no_opening_is_on_both_sides(tmp_path, answers):
    records = [talk(f"question {index % 20}", f"answer {index}", "and?", f"then {index}") for index in range(60)]
    source = write(tmp_path / "a.jsonl", records)
    found = opened(source, held_out=6, answers=answers, length=512)
    train, held_out = ({prompt.split("assistant")[0] for prompt, _ in texts(side)} for side in (found.train, found.held_out))
    assert (len(train), len(held_out)) == (14, 6)
    assert not train & held_out
    assert len(found.train) + len(found.held_out) == 60 * (1 if answers == "last" else 2)
    other = opened(write(tmp_path / "b.jsonl", records[::-1]), held_out=6, answers=answers, length=512)
    assert texts(other.held_out) == texts(found.held_out)  # whatever the order of the records


def test_gsm8k_and_arithmetic_keep_their_held_out_exercises_from_training(data_folder):
    for source in ("gsm8k", "arithmetic:3:2000"):
        found = opened(source, held_out=100, length=2048)
        questions = {exercise.question for exercise in found.exercises}
        assert len(questions) == len(found.exercises) == 100
        trained = {bytes(token for token in sample.prompt.tolist() if token < 256) for sample in found.train}
        assert not {f"user\n\n{question}assistant\n\n".encode() for question in questions} & trained


@pytest.mark.parametrize(
    ("padding", "answer", "seen"),
    [("eos", [*b"1", TURN, END, END], 4), ("one", [*b"1", TURN, END, END, END], 3), ("none", [*b"1", TURN, END, END], 2)],
)
def test_padding_is_a_choice(tmp_path, padding, answer, seen):
    found = opened(write(tmp_path / "a.jsonl", [talk("x", "1"), talk("y", "222")]), padding=padding)
    short, long = sorted(found.train + found.held_out, key=lambda sample: len(sample.answer))
    batch = collated([long, short], padding, END)
    prompt = int(batch.prompts[1])
    assert batch.tokens[1, prompt:].tolist() == answer
    assert int(batch.lengths[1]) - prompt == seen
    assert int(batch.lengths[0]) == batch.tokens.shape[1]


def test_answers_are_cut_and_prompts_without_room_left_out_and_both_are_counted(tmp_path):
    source = write(tmp_path / "a.jsonl", [talk("a", "1" * 80), talk("b" * 80, "1"), talk("c", "2"), talk("d", "3")])
    found = opened(source, held_out=2)
    assert (found.report["truncated"], found.report["too_long"]) == (1, 1)
    samples = found.train + found.held_out
    assert sorted(len(sample.prompt) + len(sample.answer) for sample in samples)[-1] == 64
    assert len(samples) == 3


BAD = [
    (b"{no json", "no JSON"),
    (b"\xff", "no JSON"),
    ({"text": "x"}, "no field messages"),
    ({"messages": [{"role": "bot", "content": ""}]}, r"messages\[0\].role: 'bot' is unknown"),
    ({"messages": [{"role": "user", "content": "x"}]}, "no answer of the assistant"),
    (talk("x", "  "), "an empty answer of the assistant"),
    (talk("x", "y") | {"weight": 0}, "weight: 0 cannot be honoured"),
    (talk("x", "y") | {"tools": [{"name": "f"}]}, r"tools: \[.* cannot be honoured"),
    (b'{"messages": [], "messages": []}', "no JSON .'messages' is given twice in one object."),
    (b'{"messages": [], "score": NaN}', "no JSON .'score': nan is no finite number."),
    (
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "weight": 0}]},
        r"messages\[1\].weight: 0 cannot be honoured; allowed: role and content",
    ),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{"id": 1}]}]}, r"messages\[0\].tool_calls: \[.*cannot be"),
]


@pytest.mark.parametrize(("record", "message"), BAD)
def test_malformed_records_are_named_by_their_line_and_skipped_while_they_are_few(tmp_path, record, message):
    good = [talk(f"{index}", "1") for index in range(9)]
    source = write(tmp_path / "a.jsonl", [*good[:4], record, *good[4:]])
    with pytest.raises(InputError, match=f"1 of 10 records are malformed, and malformed = 0.01 .*: a.jsonl line 5: {message}"):
        opened(source)
    found = opened(source, malformed=0.1)
    assert len(found.train) + len(found.held_out) == 9
    assert found.report["malformed"] == 1
    assert found.report["malformed_records"][0].startswith("a.jsonl line 5: ")


def test_a_batch_of_a_step_is_the_same_however_a_run_came_to_it_and_an_epoch_has_every_sample_once(tmp_path):
    found = opened(write(tmp_path / "a.jsonl", [talk(f"{index:02}", f"{index:02}") for index in range(13)]))
    one_by_one = [found.batch(0, step, 4).tokens for step in range(6)]
    rows = torch.cat(one_by_one).tolist()
    assert len({tuple(row) for row in rows[:12]}) == len({tuple(row) for row in rows[12:24]}) == 12
    assert rows[:12] != rows[12:24]
    assert torch.equal(found.batch(0, 4, 4).tokens, one_by_one[4])
    assert not torch.equal(found.batch(1, 4, 4).tokens, one_by_one[4])


def test_a_hub_data_set_is_read_through_datasets(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    path = write(tmp_path / "a.jsonl", [talk(f"{index}", f"{index}") for index in range(5)])
    real = datasets.load_dataset

    def load(name, split):
        assert (name, split) == ("allenai/tulu-3-sft-personas-math-filtered", "train")
        return real("json", data_files=path, split="train")

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub, local = opened("allenai/tulu-3-sft-personas-math-filtered"), opened(path)
    assert hub.sha256 == local.sha256
    assert len(hub.train) == 4


def test_without_a_hub_the_message_says_what_to_give(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def refuse(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(
        InputError, match=r"'allenai/tulu.*' cannot be had from the hub \(ConnectionError\); give a .jsonl file with"
    ):
        opened("allenai/tulu-3-sft-personas-math-filtered")


def test_bad_sources_and_settings_are_named(tmp_path):
    source = write(tmp_path / "a.jsonl", [talk("a", "1"), talk("a", "2")])
    with pytest.raises(InputError, match=r"data.source: the conversations of '.*a.jsonl' all begin .*allowed: at least two"):
        opened(source)
    with pytest.raises(InputError, match=r"data.source: '.*/nope.jsonl.gz' is not there; allowed: a file"):
        opened("somewhere/nope.jsonl.gz")
    with pytest.raises(InputError, match=r"data.source: '../nope' is not there; allowed: a file"):
        opened("../nope")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"data.source: '.*empty.jsonl' has no record; allowed: at least one conversation"):
        opened(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match=r"data.source: 'nothing' is not there; allowed: a file or folder of .jsonl"):
        opened("nothing")
    with pytest.raises(InputError, match=r"data.length: 8 is not allowed; no prompt to train on, or none held out, leaves room"):
        opened(write(tmp_path / "b.jsonl", [talk("a", "1"), talk("b", "2")]), length=8)
    for changes, message in (
        ({"padding": "mask"}, "data.padding: 'mask' is unknown; allowed: eos, one, none"),
        ({"answers": "first"}, "data.answers: 'first' is unknown; allowed: last, each"),
        ({"malformed": 1.0}, "data.malformed: 1.0 is not allowed"),
        ({"held_out": 0}, "data.held_out: 0 is not allowed; at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            ChatConfig(**changes)


def test_the_hash_is_of_the_tokens_their_padding_and_the_split(tmp_path):
    source = write(tmp_path / "a.jsonl", [talk(f"{index}", "1") for index in range(6)])
    hashes = {
        opened(source).sha256, opened(source, padding="none").sha256, opened(source, held_out=2).sha256,
        opened(write(tmp_path / "b.jsonl", [talk(f"{index}", "2") for index in range(6)])).sha256,
    }  # fmt: skip
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            r'{"messages": [{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "x"}]}',
            "messages\\[0\\].content: .* has a character that UTF-8 does not allow",
        ),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_text_that_is_no_unicode_and_json_nested_too_deeply_are_malformed(tmp_path, line, message):
    source = write(tmp_path / "a.jsonl", [talk(f"{index}", "1") for index in range(6)])
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=f"a.jsonl line 7: {message}"):
        opened(source)
