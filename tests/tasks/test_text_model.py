import json

import pytest
import tokenizers
import torch

from mdlm_min.data.chat import NAMES
from mdlm_min.data.text import TextConfig
from mdlm_min.data.tokenizer import train_bpe
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.model.llada import SpecialTokens, scaled
from mdlm_min.model.llada_weights import save_weights
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError
from mdlm_min.run.run_folder import RunFolder, open_run
from mdlm_min.tasks import pretrain
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask, ShapeConfig
from mdlm_min.tasks.model_files import read_model_files, write_model_files
from mdlm_min.tasks.text_model import TextModel, context_length
from mdlm_min.training.checkpoint import Checkpoint, checkpoints


@pytest.fixture
def make(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("the cat sat on the mat\n" * 400)

    def made(tokenizer="bytes", **shape):
        config = LanguageRunConfig(TextConfig(str(path), tokenizer, 20), ShapeConfig(layers=1, heads=2, width=16, **shape))
        task = LanguageTask(config, 0)
        return TextModel(task.model, task.data.tokenizer, task.mask_token)

    return made


def test_gaps_are_masked_tokens(make):
    model = make()
    m = model.mask_token
    assert model.template("a [MASK]b____c") == [97, 32, m, 98, m, m, m, m, 99]
    assert model.template("a_b") == [97, 95, 98]  # one underscore is a character


def test_a_space_before_a_gap_belongs_to_subword_tokens(make):
    model = make("bpe:270")
    tokens = model.template("cat [MASK] mat")
    assert model.tokenizer.decode([token for token in tokens if token != model.mask_token]) == "cat mat"
    assert model.continuation("cat ", 20) == model.continuation("cat", 20)


def test_a_prompt_s_last_space_is_kept(make):
    """Whatever the model would rather write, its first token begins with the space; without a last space it is free."""
    model = make("bpe:270")
    spaces = {token for token in range(model.tokenizer.vocab_size) if model.tokenizer.decode([token]).startswith(" ")}
    assert model.rules_behind("cat ").begin_suppress == set(range(model.tokenizer.vocab_size)) - spaces
    assert not model.rules_behind("cat").begin_suppress
    hot = SamplingConfig("random", 4, 5.0)
    texts = [model.write("cat ", 8, hot, seed) for seed in range(20)]
    assert all(text.startswith("cat ") for text in texts)
    assert not all(model.write("cat", 8, hot, seed).startswith("cat ") for seed in range(20))
    assert not make().rules_behind("cat ").begin_suppress  # in bytes the space is the prompt's own


def test_a_token_that_the_model_suppresses_is_written_where_it_is_meant_and_one_that_the_caller_suppresses_nowhere(make):
    model = make()
    model.suppressed = {1, 2, 3}
    rules = model.rules(stop=(1, 5, 6), suppress=(6, 7), defer=(2,))
    assert (rules.suppress, rules.stop, rules.defer) == ({3, 6, 7}, {1, 5}, {2})


def test_learned_positions_read_short_texts_too(make):
    model = make(position_encoding="learned")
    template = torch.tensor([model.template("the [MASK]at")])
    filled = model.fill(template, SamplingConfig(steps=3))
    assert filled.shape == template.shape
    assert filled[template != model.mask_token].tolist() == template[template != model.mask_token].tolist()
    assert model.mask_token not in filled


def test_what_a_terminal_would_obey_is_not_printed(make):
    assert make().decode([27, 91, 97, 10, 9, 0]) == "\ufffd[a\n\t\ufffd"


def test_data_that_were_never_text_have_no_words():
    config = LanguageRunConfig(
        TextConfig("parities:4", length=12), ShapeConfig(layers=1, heads=2, width=16, position_encoding="learned")
    )
    with pytest.raises(InputError, match="never text"):
        task = LanguageTask(config, 0)
        TextModel(task.model, task.data.tokenizer, task.mask_token)


def test_a_pre_training_run_writes_too_and_never_its_end_token(tmp_path):
    text = tmp_path / "corpus.txt"
    text.write_text("\n".join(f"line {index**2} of the text" for index in range(500)))
    settings = {
        "data": {"source": str(text), "tokenizer": "bytes", "length": 32, "end_token": 101},  # 101 is "e"
        "model": {"layers": 1, "heads": 2, "width": 16},
        "batch": 4, "validation_passes": 0, "test_passes": 240,
        "train": {"steps": 2, "eval_every": 2},
    }  # fmt: skip
    with open_run(tmp_path / "run", {"seed": 0, **settings}) as folder:
        pretrain.run(settings, 0, folder, lambda line: None)
    model = TextModel.load(tmp_path / "run")
    assert context_length(tmp_path / "run") == model.length == 32
    assert {256, 101} <= model.suppressed | {model.mask_token}
    template = torch.tensor([model.continuation("line ")]).expand(20, -1)
    filled = model.fill(template, SamplingConfig("random", 27, 5.0))
    assert filled.max() < 256
    assert not (filled[:, 5:] == 101).any()
    saved = Checkpoint(checkpoints(tmp_path / "run" / "checkpoints")[-1])
    assert torch.equal(model.model.head.weight.detach(), saved["model.head.weight"])


@pytest.fixture
def released(tmp_path):
    """A tiny folder in LLaDA's released form, in bfloat16, and its model."""
    size = 280
    model = Transformer(scaled(1, 2, 16, vocab_size=size, outputs=size, length=32), torch.Generator().manual_seed(0)).bfloat16()
    save_weights(tmp_path, model, SpecialTokens(mask=271, end=270, padding=270))
    (tmp_path / "tokenizer.json").write_text(train_bpe(["the cat sat on the mat\n" * 40], 270))
    return tmp_path, model


def test_a_released_folder_needs_no_run(released):
    path, written = released
    model = TextModel.load(path)
    assert context_length(path) == model.length
    assert (model.mask_token, model.end_token, model.length, model.dtype) == (271, 270, 32, torch.bfloat16)
    assert model.suppressed == {*range(model.tokenizer.vocab_size, 280)}
    assert all(torch.equal(*pair) for pair in zip(model.model.parameters(), written.parameters(), strict=True))
    wider = TextModel.load(path, dtype="float32")
    assert {parameter.dtype for parameter in wider.model.parameters()} == {wider.dtype} == {torch.float32}
    template = torch.tensor([model.template("the [MASK] sat on ___")])
    filled = model.fill(template, SamplingConfig("random", 4, 1.0))
    assert filled[template != 271].tolist() == template[template != 271].tolist()
    assert filled.max() < 270
    with pytest.raises(InputError, match="dtype: 'int8' is unknown; allowed: float32, bfloat16"):
        TextModel.load(path, dtype="int8")
    file = path / "tokenizer.json"
    own = file.read_text()
    for names, message in (
        ([f"<{number}>" for number in range(281 - model.tokenizer.vocab_size)], "281 tokens are not allowed; the model has 280"),
        (NAMES[:1], r"<\|mdm_mask\|> is \d+, but mask_token_id in config.json is 271; they must agree"),
    ):
        other = tokenizers.Tokenizer.from_str(own)
        other.add_special_tokens(list(names))
        file.write_text(other.to_str())
        with pytest.raises(InputError, match=f"tokenizer.json: {message}"):
            TextModel.load(path)
    file.write_text(own)
    config = json.loads((path / "config.json").read_text())
    for name in ("mask_token_id", "eos_token_id"):
        (path / "config.json").write_text(json.dumps(config | {name: 97}))
        with pytest.raises(InputError, match=f"{name}: 97 stands for text, '.*'; allowed: a special token, or"):
            TextModel.load(path)
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="tokenizer.json cannot be read"):
        TextModel.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask_token": -1}, "model.json: mask_token: -1 is not allowed; a token id from 0 to"),
        ({"mask_token": None}, "model.json: mask_token: None is not allowed; a token id from 0 to"),
        ({"end_token": "x"}, "model.json: end_token: 'x' is not allowed; a token id from 0 to"),
        ({"tokenizer": "words"}, "model.json: tokenizer: 'words' is unknown; allowed: bytes, gpt2, tokenizer.json"),
    ],
)
def test_a_damaged_model_json_is_named(make, tmp_path, change, message):
    model = make()
    folder = RunFolder(tmp_path)
    write_model_files(folder, model.model.config, model.tokenizer, model.mask_token, None)
    assert read_model_files(folder)[0] == model.model.config
    folder.write_json("model.json", folder.read_json("model.json") | change)
    with pytest.raises(InputError, match=message):
        read_model_files(folder)
