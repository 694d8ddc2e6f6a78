import pytest
import torch

from mdlm_min.data.arithmetic import arithmetic
from mdlm_min.data.chat import ChatTemplate
from mdlm_min.data.density_marks import find_marks
from mdlm_min.data.tokenizer import Bytes
from mdlm_min.run.errors import InputError

TEMPLATE = ChatTemplate(Bytes())


def marked(rule, text):
    """The marked bytes in their places, every other one as a dot."""
    marks = find_marks(rule, TEMPLATE)(torch.tensor([TEMPLATE.content(text)]))[0].tolist()
    assert marks[-1] is False  # the end of the turn
    return "".join(one if mark else "." for one, mark in zip(text, marks, strict=False))


def test_of_worked_sums_the_operations_and_results_are_dense():
    assert marked("arithmetic", "7-5=2,2+3=5,5-1=4#4") == ".-..2..+..5..-..4.4"


def test_every_sum_has_two_dense_tokens_a_step_and_its_result():
    for exercise in arithmetic("arithmetic:3:50"):
        assert sum(one != "." for one in marked("arithmetic", exercise.answer)) == 2 * 3 + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48/2 = 24 clips", "48/2.=.24......"),
        ("She has 30 - 10 - 2 = 18", "........30.-.10.-.2.=.18"),
        ("a total of 1,200.50 in May", "...........1,200.50......."),
        ("twenty-five and/or 3 x (2/3) = 2", "...................3.x..2/3..=.2"),
        ("10*$20 = $200.", "10*.20.=..200."),
        ("mix: 4, 5 and 6.", ".....4..5.....6."),
        ("#### 72", ".....72"),
        ("6 x-rays, 3-day trips", "6.........3.........."),
    ],
)
def test_of_gsm8k_s_answers_numbers_and_operators_are_dense(text, expected):
    assert marked("gsm8k", text) == expected


def test_tokens_of_several_letters_are_marked_where_they_overlap():
    class Words(Bytes):
        vocab_size = 4
        texts = ("ab", " 48", "/", "2c")

        def decode(self, tokens):
            return "".join(self.texts[token] for token in tokens)

    marks = find_marks("gsm8k", ChatTemplate(Words()))
    assert marks(torch.tensor([[0, 1, 2, 3], [0, 2, 0, 1]])).tolist() == [[False, True, True, True], [False, False, False, True]]


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match="marks: 'code' is unknown; allowed: arithmetic, gsm8k"):
        find_marks("code", TEMPLATE)
