import pytest
import torch

from mdlm_min.data.text import TextConfig
from mdlm_min.diffusion.sampling import SamplingConfig
from mdlm_min.run.errors import InputError
from mdlm_min.tasks.language import LanguageRunConfig, LanguageTask, ShapeConfig
from mdlm_min.tasks.text_model import TextModel


@pytest.fixture
def make(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("the cat sat on the mat\n" * 400)

    def made(tokenizer="bytes", **shape):
        config = LanguageRunConfig(TextConfig(str(path), tokenizer, 20), ShapeConfig(layers=1, heads=2, width=16, **shape))
        return TextModel(LanguageTask(config, 0))

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
    with pytest.raises(InputError, match="is no text"):
        TextModel(LanguageTask(config, 0))
