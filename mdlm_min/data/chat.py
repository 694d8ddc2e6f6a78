r"""The chat template: conversations as token ids, for fine-tuning, generation and evaluation alike.

LLaDA's template, which is Llama 3's: for each message

    <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>

behind one <|startoftext|>, and before an answer the assistant's header. A tokenizer that has LLaDA's special tokens gives their
ids; for every other tokenizer (bytes, bpe:SIZE, gpt2) they stand behind its vocabulary, so that a small model learns the same
template. Role, the two line ends and the content are encoded one by one: the tokens of a prompt are then always the first
tokens of the conversation that it begins, whatever the tokenizer would merge.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from mdlm_min.data.tokenizer import Tokenizer
from mdlm_min.run.config import shown
from mdlm_min.run.errors import InputError

ROLES = ("system", "user", "assistant", "tool")
Message = Mapping[str, str]  # role and content


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that stand for no text. `end` is also the padding."""

    mask: int
    end: int
    begin: int
    start_header: int
    end_header: int
    end_turn: int

    @staticmethod
    def of(tokenizer: Tokenizer) -> "SpecialTokens":
        """The tokenizer's own, where it has LLaDA's mask; otherwise new ones behind its vocabulary, mask and end first, as in
        pre-training (data/samples.py). Raises InputError for a tokenizer with the mask and not all of the others."""
        found = [tokenizer.special_id(name) for name in NAMES]
        if found[0] is None:
            return SpecialTokens(*range(tokenizer.vocab_size, tokenizer.vocab_size + len(NAMES)))
        if missing := [name for name, number in zip(NAMES, found, strict=True) if number is None]:
            raise InputError(f"data.tokenizer: it has {NAMES[0]} but not {', '.join(missing)}; LLaDA's template needs them all")
        return SpecialTokens(*(number for number in found if number is not None))


NAMES = ("<|mdm_mask|>", "<|endoftext|>", "<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LLADA_TOKENS = SpecialTokens(126336, 126081, 126080, 126346, 126347, 126348)


class ChatTemplate:
    """Conversations to token ids, and the tokens of an answer to its text."""

    def __init__(self, tokenizer: Tokenizer, special: SpecialTokens | None = None) -> None:
        """`special`: ids that are given, as of a model whose tokenizer is another one; by default SpecialTokens.of."""
        self.tokenizer = tokenizer
        self.special = special or SpecialTokens.of(tokenizer)

    @property
    def vocab_size(self) -> int:
        """The least vocabulary of a model that reads this template."""
        return max(self.tokenizer.vocab_size, *(number + 1 for number in astuple(self.special)))

    def render(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        """Token ids of a conversation; with `add_generation_prompt` the assistant's header follows, and an answer is to come."""
        tokens = [self.special.begin]
        for message in messages:
            tokens += [*self._header(message["role"]), *self.content(message["content"])]
        return tokens + self._header("assistant") if add_generation_prompt else tokens

    def content(self, text: str) -> list[int]:
        """What follows a header: the text, without the space around it, and the token that ends the turn."""
        return [*self._encode(text.strip()), self.special.end_turn]

    def answer(self, tokens: Iterable[int]) -> str:
        """Text of an answer: what stands before the first token that ends a turn or a text. Other special tokens are left out."""
        special, kept = set(astuple(self.special)), []
        for token in tokens:
            if token in (self.special.end_turn, self.special.end):
                break
            if token not in special:
                kept.append(token)
        return self.tokenizer.decode(kept)

    def _header(self, role: str) -> list[int]:
        return [self.special.start_header, *self._encode(role), self.special.end_header, *self._encode("\n\n")]

    def _encode(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer.encode(text)]


def check_messages(value: Any) -> list[Message]:
    """The value as a conversation. Raises ValueError saying what is wrong with it."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"messages: {shown(value)} is no list of messages")
    for index, message in enumerate(value):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise ValueError(f"messages[{index}].role: {shown(role)} is unknown; allowed: {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise ValueError(f"messages[{index}].content: {shown(content)} is no text")
    return value
