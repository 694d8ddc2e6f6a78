"""A tiny model in LLaDA's form, in memory and as a released folder with a tokenizer, and tiny data in the real schemas."""

import json

import pytest
import torch

from mdlm_min.data.tokenizer import Bytes
from mdlm_min.model.llada import SpecialTokens, scaled
from mdlm_min.model.llada_weights import save_weights
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.random_streams import stream
from mdlm_min.tasks.text_model import TextModel

LENGTH = 160
VOCABULARY = 262  # bytes, and LLaDA's special tokens behind them
SENTENCES = ["The cat sat on the mat.", "A dog ran to the door.", "Rain fell on the roof.", "She sang a slow song."]


def make_model(length=LENGTH):
    shape = scaled(1, 2, 16, vocab_size=VOCABULARY, outputs=VOCABULARY, length=length)
    model = Transformer(shape, stream(1, "weights"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that answers differ
        model.head.weight[:32] = model.head.weight[127:] = 0  # what it writes is plain text
    return model


@pytest.fixture
def text_model():
    return TextModel(make_model(), Bytes(), 256, 257)


@pytest.fixture
def harness(text_model, monkeypatch):
    """A maker of the lm-eval model around the tiny one."""
    from mdlm_min.evaluation.harness import MDLM

    monkeypatch.setattr(TextModel, "load", staticmethod(lambda path, device="cpu", dtype="": text_model))
    return lambda **settings: MDLM(folder="tiny", **{"passes": 3, **settings})


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A released folder: config.json, weights, and a byte-level tokenizer of 256 tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("released")
    save_weights(folder, make_model(), SpecialTokens(256, 257, 257))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return folder


def read(folder):
    """results.json and the items of a folder of results."""
    lines = (folder / "items.jsonl").read_text().splitlines()
    return json.loads((folder / "results.json").read_text()), [json.loads(line) for line in lines]


def write_lines(path, records):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def tiny_data(tmp_path, monkeypatch):
    """MDLM_DATA with a few items of every offline task."""
    folder = tmp_path / "data"
    folder.mkdir()
    choices = {"text": ["mat", "door", "roof", "song"], "label": ["A", "B", "C", "D"]}
    arc = [{"id": str(n), "question": text, "choices": choices, "answerKey": "ABCD"[n]} for n, text in enumerate(SENTENCES)]
    swag = [
        {"activity_label": "Pets", "ctx_a": text, "ctx_b": "then", "endings": ["it slept.", "it ran.", "it sang.", "it fell."],
         "label": n}
        for n, text in enumerate(SENTENCES)
    ]  # fmt: skip
    mmlu = [
        {"subject": subject, "question": text, "choices": ["cat", "dog", "rain", "song"], "answer": n}
        for subject in ("astronomy", "world_religions")
        for n, text in enumerate(SENTENCES)
    ]
    sums = [{"question": f"{n} and {n}?", "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n}"} for n in range(1, 5)]
    for name in ("ARC-Easy-Test", "ARC-Challenge-Test"):
        write_lines(folder / "arc" / f"{name}.jsonl", arc)
    write_lines(folder / "hellaswag" / "val_1000.jsonl", swag)
    write_lines(folder / "mmlu" / "test.jsonl", mmlu)
    write_lines(folder / "mmlu" / "dev.jsonl", mmlu)
    write_lines(folder / "gsm8k" / "train.jsonl", sums)
    write_lines(folder / "gsm8k" / "test.jsonl", sums)
    monkeypatch.setenv("MDLM_DATA", str(folder))
    return folder
