import pytest

from mdlm_min.data.chat import NAMES, ChatTemplate, ChatTokens, check_messages
from mdlm_min.data.tokenizer import Bytes, TrainedBPE
from mdlm_min.run.errors import InputError

LLADA = ChatTokens(126336, 126081, 126080, 126346, 126347, 126348)  # of the released tokenizer
TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": " 1 + 1?\n"},
    {"role": "assistant", "content": "2"},
]


def released(names=NAMES):
    """A tokenizer that has LLaDA's special tokens, and merges line ends with what follows."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    made = tokenizers.Tokenizer(models.WordLevel({"?": 0, "user": 1, "assistant": 2, "\n\n": 3, "\n\nhi": 4, "hi": 5}, "?"))
    made.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    made.add_special_tokens(list(names))
    return TrainedBPE(made.to_str())


def test_bytes_have_the_template_with_ids_behind_the_vocabulary():
    template = ChatTemplate(Bytes())
    mask, end, begin, start, stop, turn = range(256, 262)
    assert template.special == ChatTokens(mask, end, begin, start, stop, turn)
    assert template.vocab_size == 262

    def said(role, content):
        return [start, *role.encode(), stop, *b"\n\n", *content.encode(), turn]

    whole = [begin, *said("system", "be brief"), *said("user", "1 + 1?"), *said("assistant", "2")]
    assert template.render(TALK, add_generation_prompt=False) == whole
    assert template.render(TALK[:2], add_generation_prompt=True) == whole[:-2]  # an answer is its content and the end of its turn


def test_a_tokenizer_with_llada_s_tokens_keeps_their_ids_and_a_prompt_is_the_beginning_of_its_conversation():
    template = ChatTemplate(released())
    assert template.special == ChatTokens(6, 7, 8, 9, 10, 11)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}]
    whole = template.render(talk, add_generation_prompt=False)
    assert whole == [8, 9, 1, 10, 3, 5, 11, 9, 2, 10, 3, 5, 11]  # never 4, the merger over the border
    assert template.render(talk[:1], add_generation_prompt=True) == whole[: len(whole) - 2]
    assert template.content("hi") == whole[-2:]


def test_ids_that_are_given_are_used():
    template = ChatTemplate(Bytes(), LLADA)
    assert template.render([], add_generation_prompt=True) == [126080, 126346, *b"assistant", 126347, *b"\n\n"]
    assert template.vocab_size == 126349


def test_no_text_writes_a_special_token():
    template = ChatTemplate(released())
    talk = [{"role": "user", "content": "<|eot_id|><|mdm_mask|>"}]
    tokens = template.render(talk, add_generation_prompt=False)
    assert tokens.count(11) == 1
    assert 6 not in tokens


def test_an_answer_ends_with_its_turn_or_its_text():
    template = ChatTemplate(Bytes())
    special = template.special
    assert template.answer([*b"12", special.start_header, *b"3", special.end_turn, *b"4"]) == "123"
    assert template.answer([*b"12", special.end, special.end]) == "12"
    assert template.answer([*b"12"]) == "12"


def test_a_tokenizer_with_some_of_the_tokens_is_refused():
    with pytest.raises(InputError, match=r"data.tokenizer: it has <\|mdm_mask\|> but not <\|endoftext\|>, <\|startoftext\|>"):
        ChatTemplate(released(NAMES[:1]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hi", "messages: 'hi' is no list of messages"),
        ([], "messages: .. is no list of messages"),
        ([{"role": "bot", "content": "hi"}], r"messages\[0\].role: 'bot' is unknown; allowed: system, user"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content: 3 is no text"),
        (["hi"], r"messages\[0\].role: None is unknown"),
    ],
)
def test_what_is_no_conversation_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        check_messages(value)


def test_the_mask_and_the_end_of_a_model_stay_what_they_are():
    assert ChatTokens.of(Bytes(), mask=257, end=300) == ChatTokens(257, 300, 256, 258, 259, 260)
    assert ChatTokens.of(Bytes(), mask=256) == ChatTokens(*range(256, 262))
    assert ChatTokens.of(released(), mask=6).end == 7
    with pytest.raises(InputError, match=r"data.tokenizer: its <\|mdm_mask\|> is 6, but the model's mask is 5"):
        ChatTokens.of(released(), mask=5)
