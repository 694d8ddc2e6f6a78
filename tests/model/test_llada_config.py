"""config.json of a released folder: every field that changes the result is honoured or refused by its name."""

import json

import pytest
import torch

from mdlm_min.model.llada import LLADA_8B, SpecialTokens, read_config, read_special_tokens, released_config, scaled
from mdlm_min.model.llada_weights import load_weights, save_weights
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError

SIZES = {"layers": 2, "heads": 4, "width": 16, "vocab_size": 50, "outputs": 50, "length": 12}
TOKENS = SpecialTokens(49, 48, 47)


def tiny(**changes):
    return Transformer(scaled(**{**SIZES, **changes}), torch.Generator().manual_seed(0))


@pytest.fixture
def alter(tmp_path):
    """A function that changes fields of a tiny folder's config.json (ABSENT takes one out) and returns the folder."""
    save_weights(tmp_path, tiny(), TOKENS)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())

    def altered(**changes):
        path.write_text(json.dumps({name: value for name, value in {**values, **changes}.items() if value is not ABSENT}))
        return tmp_path

    return altered


ABSENT = object()
REFUSED = {
    "model_type": ["llama", "llada_moe", ABSENT],
    "block_type": ["sequential", "parallel", ABSENT],
    "block_group_size": [2, None],
    "layer_norm_type": ["default", "gemma_rms", ABSENT],
    "layer_norm_with_affine": [False],
    "bias_for_layer_norm": [True],
    "attention_layer_norm": [True],
    "activation_type": ["swiglu", "gelu", ABSENT],
    "include_bias": [True],
    "include_qkv_bias": [True],
    "weight_tying": [True, ABSENT],
    "input_emb_norm": [True],
    "scale_logits": [True, "yes"],
    "rope": [False, ABSENT],
    "rope_full_precision": [False],
    "rope_scaling": [{"type": "linear", "factor": 2.0}],
    "rope_theta": [0, -1.0, "500000", float("inf"), True, None, 10**400],
    "alibi": [True],
    "clip_qkv": [8.0],
    "quantization_config": [{"load_in_8bit": True}],
    "multi_query_attention": [True, 1],  # n_kv_heads is there too, and says 4
    "rms_norm_eps": [0, "1e-5", None, 10**400, 2],
    "n_kv_heads": [3, 0, 2.0, 8],
    "n_layers": [16.0, 0, True, "2", None],
    "n_heads": [3, 0, ABSENT],
    "d_model": [15, 16.0],
    "mlp_hidden_size": [48.0, 0],
    "max_sequence_length": [12.5, 0],
    "vocab_size": [51, "50"],
    "embedding_size": [0, 49],
    "mask_token_id": [None, 50, -1, ABSENT, 48],  # 48: the end token
    "eos_token_id": [50, "48"],
    "pad_token_id": [1.0, 49],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in REFUSED.items() for value in values])
def test_what_is_not_supported_is_refused_by_name(alter, field, value):
    with pytest.raises(InputError) as error:
        folder = alter(**{field: value})
        read_config(folder)
        read_special_tokens(folder)
    message = str(error.value)
    assert "\n" not in message
    assert field in message
    assert "model." not in message  # our own names say nothing to the owner of the file


HONOURED = {
    "n_layers": (3, {"layers": 3}),
    "n_heads": (2, {"heads": 2}),
    "n_kv_heads": (2, {"kv_heads": 2}),
    "d_model": (32, {"width": 32}),
    "mlp_hidden_size": (40, {"mlp_width": 40}),
    "max_sequence_length": (20, {"length": 20}),
    "embedding_size": (64, {"vocab_size": 64, "outputs": 64}),
    "rope_theta": (10000, {"rotary_base": 10000.0}),
    "rms_norm_eps": (1e-6, {"norm_epsilon": 1e-6}),
}


@pytest.mark.parametrize("field", HONOURED)
def test_what_is_honoured_changes_the_model_and_its_weights_must_fit(alter, field):
    value, changes = HONOURED[field]
    folder = alter(**{field: value} | ({"n_kv_heads": 2} if field == "n_heads" else {}))
    config = read_config(folder)
    expected = {name: getattr(tiny().config, name) for name in config.__dataclass_fields__} | changes
    assert {name: getattr(config, name) for name in config.__dataclass_fields__} == expected
    if field != "max_sequence_length":  # a model for shorter texts may be filled from a longer one
        with pytest.raises(InputError, match=f"config.json: {field} is .*, but the model has"):
            load_weights(folder, tiny())


SAME = [
    *({name: value} for name in ("attention_dropout", "residual_dropout", "embedding_dropout") for value in (0.1, ABSENT)),
    {"flash_attention": True},
    {"alibi_bias_max": 4.0},
    {"init_fn": "normal", "init_std": 1.0, "init_cutoff_factor": 2.0, "init_device": "cuda"},
    {"precision": "amp_bf16"},
    {"attention_layer_norm_with_affine": False},
    {"use_cache": True, "torch_dtype": "bfloat16", "transformers_version": "4.46.3", "architectures": ["Any"]},
    {"bias_for_layer_norm": None, "include_qkv_bias": None, "rope_scaling": None},
    {"n_kv_heads": ABSENT},
    {"n_kv_heads": None, "multi_query_attention": False},
    {"embedding_size": None},
    {"mlp_hidden_size": None, "mlp_ratio": 3},
    {"mlp_hidden_size": ABSENT, "mlp_ratio": 3},
    {"scale_logits": ABSENT, "alibi": ABSENT, "include_bias": ABSENT, "block_group_size": ABSENT, "rms_norm_eps": ABSENT},
    {"eos_token_id": None, "pad_token_id": ABSENT},
]


@pytest.mark.parametrize("changes", SAME)
def test_what_changes_no_result_is_loaded_right(alter, changes):
    folder = alter(**changes)
    model = Transformer(read_config(folder), None)
    load_weights(folder, model)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), tiny().parameters(), strict=True))
    assert model.config == tiny().config


def test_what_is_left_out_has_the_default_of_llada_s_own_class(alter):
    sizes = ("n_layers", "n_heads", "n_kv_heads", "d_model", "mlp_hidden_size", "max_sequence_length", "vocab_size")
    config = read_config(alter(**dict.fromkeys((*sizes, "embedding_size", "rope_theta", "rms_norm_eps"), ABSENT)))
    assert (config.layers, config.heads, config.kv_heads, config.width, config.mlp_width) == (12, 12, 0, 768, 4 * 768)
    assert (config.length, config.vocab_size, config.outputs) == (1024, 50304, 50304)
    assert (config.rotary_base, config.norm_epsilon) == (10000.0, 1e-5)
    assert read_config(alter(vocab_size=ABSENT, embedding_size=None)).vocab_size == 50257


def test_every_field_that_is_written_is_altered_above():
    written = released_config(tiny().config, TOKENS)
    same = {name for changes in SAME for name in changes}
    assert set(written) - {"auto_map"} <= REFUSED.keys() | HONOURED.keys() | same


def test_multi_query_attention_means_one_head_of_keys(alter):
    folder = alter(n_kv_heads=None, multi_query_attention=True)
    config = read_config(folder)
    assert config.kv_heads == 1
    save_weights(folder, grouped := tiny(kv_heads=1), TOKENS)
    assert json.loads((folder / "config.json").read_text())["n_kv_heads"] == 1
    other = Transformer(config, None)
    load_weights(folder, other)
    assert all(torch.equal(*pair) for pair in zip(grouped.parameters(), other.parameters(), strict=True))
    assert other.blocks[0].qkv.weight.shape == (16 + 2 * 4, 16)


def test_the_ids_are_the_model_s_own(alter):
    assert read_special_tokens(alter()) == TOKENS
    assert read_special_tokens(alter(eos_token_id=None, pad_token_id=ABSENT)) == SpecialTokens(49, None, None)


def test_llada_8b_s_own_config_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(released_config(LLADA_8B)))
    assert read_config(tmp_path) == LLADA_8B
    assert read_special_tokens(tmp_path) == SpecialTokens(126336, 126081, 126081)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", "{", "", '"llada"', '{"model_type": "llada"}', '{"model_type": []}', "[" * 100_000]
)
def test_what_is_no_configuration_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match="config.json: "):
        read_config(tmp_path)
