import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mdlm_min.model.llada import LLADA_8B, parameter_count, read_config, released_config, scaled
from mdlm_min.model.llada_weights import INDEX, load_weights, save_weights, stored_dtype
from mdlm_min.model.transformer import Transformer
from mdlm_min.run.errors import InputError
from mdlm_min.run.files import write_whole

TINY = {"layers": 2, "heads": 2, "width": 16, "vocab_size": 50, "outputs": 50, "length": 12}


def tiny(seed=0, **changes):
    return Transformer(scaled(**{**TINY, **changes}), torch.Generator().manual_seed(seed))


def test_the_published_parameter_counts():
    assert parameter_count(LLADA_8B) == 8_015_581_184
    assert parameter_count(LLADA_8B) - 2 * 126464 * 4096 == 6_979_588_096


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_round_trip_is_equal_bit_by_bit(tmp_path, dtype):
    model, other = tiny(0).to(dtype), tiny(1).to(dtype)
    save_weights(tmp_path, model, shard_bytes=3000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    load_weights(tmp_path, other)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    save_weights(tmp_path, other, shard_bytes=3000)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_the_folder_has_the_released_names_shapes_and_configuration(tmp_path):
    model = tiny()
    save_weights(tmp_path, model)
    index = json.loads((tmp_path / INDEX).read_text())
    names = {"model.transformer.wte.weight", "model.transformer.ln_f.weight", "model.transformer.ff_out.weight"}
    parts = ("attn_norm", "ff_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    names |= {f"model.transformer.blocks.{layer}.{part}.weight" for layer in range(2) for part in parts}
    assert set(index["weight_map"]) == names
    assert index["metadata"]["total_size"] == 4 * sum(parameter.numel() for parameter in model.parameters())
    assert read_config(tmp_path) == model.config
    with safe_open(tmp_path / index["weight_map"]["model.transformer.blocks.1.k_proj.weight"], "pt") as shard:
        assert torch.equal(shard.get_tensor("model.transformer.blocks.1.k_proj.weight"), model.blocks[1].qkv.weight[16:32])
        assert shard.get_slice("model.transformer.blocks.0.ff_out.weight").get_shape() == [16, 48]


def test_the_block_is_llamas(tmp_path):
    """The forward pass written out from the released tensors: RMSNorm, half-split rotation, SwiGLU, no biases."""
    model = tiny().double()
    save_weights(tmp_path, model)
    weights = {}
    for file in tmp_path.glob("*.safetensors"):
        with safe_open(file, "pt") as shard:
            weights |= {name.removeprefix("model.transformer."): shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    tokens = torch.randint(50, (3, 12), generator=torch.Generator().manual_seed(2))

    def norm(x, name):
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]

    angles = torch.arange(12)[:, None] * 500000.0 ** (-torch.arange(0, 8, 2) / 8)

    def rotate(x):  # [batch, heads, length, 8]
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        return x * cos + torch.cat((-x[..., 4:], x[..., :4]), -1) * sin

    x = weights["wte.weight"][tokens]
    for layer in range(2):
        block = f"blocks.{layer}"
        h = norm(x, f"{block}.attn_norm")
        q, k, v = (
            (h @ weights[f"{block}.{part}.weight"].T).unflatten(-1, (2, 8)).transpose(1, 2)
            for part in ("q_proj", "k_proj", "v_proj")
        )
        scores = rotate(q) @ rotate(k).transpose(-1, -2) / 8**0.5
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2) @ weights[f"{block}.attn_out.weight"].T
        h = norm(x, f"{block}.ff_norm")
        inner = F.silu(h @ weights[f"{block}.ff_proj.weight"].T) * (h @ weights[f"{block}.up_proj.weight"].T)
        x = x + inner @ weights[f"{block}.ff_out.weight"].T
    expected = norm(x, "ln_f") @ weights["ff_out.weight"].T
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)  # angles are float32
    positions = torch.rand(tokens.shape) < 0.4
    torch.testing.assert_close(model(tokens, positions), expected[positions], rtol=0, atol=1e-5)


def test_initial_weights_are_llada_s():
    model = tiny(layers=3, heads=4, width=256, vocab_size=2000, outputs=2000)
    for layer, block in enumerate(model.blocks):
        for weight, scale in (
            (block.qkv.weight, 1.0),
            (block.mlp_in.weight, 1.0),
            (block.attention_out.weight, (2 * (layer + 1)) ** -0.5),
        ):
            std = scale / 16
            assert float(weight.detach().std()) == pytest.approx(0.9866 * std, rel=0.01)  # a normal cut at three deviations
            assert float(weight.detach().abs().max()) <= 3 * std + 1e-6
    assert float(model.blocks[0].norm_1.weight.detach().min()) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["weight_map"].pop("model.transformer.ln_f.weight"), "missing: model.transformer.ln_f.weight"),
        (
            lambda index: index["weight_map"].update({"model.transformer.extra.weight": "model-00001-of-00001.safetensors"}),
            "surplus: model.transformer.extra.weight",
        ),
    ],
)
def test_missing_and_surplus_tensors_are_listed(tmp_path, change, message):
    save_weights(tmp_path, tiny())
    index = json.loads((tmp_path / INDEX).read_text())
    change(index)
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        load_weights(tmp_path, tiny())


def test_misshapen_tensors_are_listed_and_nothing_is_copied(tmp_path):
    save_weights(tmp_path, tiny(vocab_size=60, outputs=60))
    model = tiny(1)
    (tmp_path / "config.json").write_text(json.dumps(released_config(model.config)))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(
        InputError,
        match=r"2 tensors do not fit .*misshapen: model.transformer.ff_out.weight is \[60, 16\], the model has \[50, 16\]",
    ):
        load_weights(tmp_path, model)
    assert all(torch.equal(mine, old) for mine, old in zip(model.parameters(), before, strict=True))


def test_damaged_files_are_named(tmp_path):
    save_weights(tmp_path, tiny())
    [shard] = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match="model-00001-of-00001.safetensors: cannot be read"):
        load_weights(tmp_path, tiny())
    (tmp_path / INDEX).unlink()
    with pytest.raises(InputError, match=INDEX):
        load_weights(tmp_path, tiny())


def test_another_block_is_refused(tmp_path):
    from mdlm_min.model.config import ModelConfig

    with pytest.raises(InputError, match="LLaDA's weights need rotary positions"):
        save_weights(tmp_path, Transformer(ModelConfig(5, 4, 5, width=8), torch.Generator()))


@pytest.mark.parametrize("failing", [0, 1, 2, 3, 4])  # two shards, config.json, tokenizer.json, index
def test_an_export_over_an_older_one_is_whole_refused_or_the_older_one(tmp_path, monkeypatch, failing):
    from mdlm_min.model import llada_weights

    save_weights(tmp_path, tiny(0), shard_bytes=22000, tokenizer="old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    writes = []

    def full(path, content):
        writes.append(path.name)
        if len(writes) > failing:
            raise InputError(f"cannot write {path}: No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(llada_weights, "write_whole", full)
    new = tiny(1, heads=4)
    with pytest.raises(InputError, match="No space left on device"):
        save_weights(tmp_path, new, shard_bytes=22000, tokenizer="new")
    assert writes[-1].startswith(("model-", "model-", "config", "tokenizer", INDEX)[failing])
    if failing < 2:
        assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    else:
        for model in (new, tiny(0)):
            with pytest.raises(InputError):
                load_weights(tmp_path, model)
    monkeypatch.undo()
    (tmp_path / "model-00001-of-00005.safetensors.new").touch()  # of an export that was killed
    save_weights(tmp_path, new, shard_bytes=22000, tokenizer="new")
    load_weights(tmp_path, tiny(2, heads=4))
    assert {path.name for path in tmp_path.iterdir()} == {*before}
    assert (tmp_path / "tokenizer.json").read_text() == "new"


def test_what_a_terminal_would_obey_is_escaped(tmp_path):
    save_weights(tmp_path, tiny())
    path, index = tmp_path / INDEX, json.loads((tmp_path / INDEX).read_text())
    for name, file, said in (
        ("a\n\x1b[31m", "model-00001-of-00001.safetensors", "surplus"),
        ("b", "n\0\ud800.safetensors", "allowed"),
    ):
        path.write_text(json.dumps(index | {"weight_map": index["weight_map"] | {name: file}}))
        with pytest.raises(InputError, match=said) as refused:
            load_weights(tmp_path, tiny())
        assert str(refused.value).isprintable()


def test_weights_are_read_in_bfloat16_only_where_all_are(tmp_path):
    save_weights(tmp_path, tiny().bfloat16())
    assert stored_dtype(tmp_path) == torch.bfloat16
    [shard] = tmp_path.glob("*.safetensors")
    tensors = load_file(shard)
    tensors["model.transformer.ln_f.weight"] = tensors["model.transformer.ln_f.weight"].float()
    save_file(tensors, shard)
    assert stored_dtype(tmp_path) == torch.float32


def test_one_file_without_an_index_is_read_too(tmp_path):
    model, other = tiny(0), tiny(1)
    save_weights(tmp_path, model)
    [shard] = tmp_path.glob("*.safetensors")
    shard.rename(tmp_path / "model.safetensors")
    (tmp_path / INDEX).unlink()
    load_weights(tmp_path, other)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="model.safetensors: cannot be read"):
        load_weights(tmp_path, other)


@pytest.mark.parametrize("place", ["../x.safetensors", "/tmp/x.safetensors", "sub/x.safetensors", "..", "", "a.bin", 3, None])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, place):
    folder = tmp_path / "model"
    save_weights(folder, tiny())
    [shard] = folder.glob("*.safetensors")
    (tmp_path / "x.safetensors").write_bytes(shard.read_bytes())
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.transformer.ln_f.weight"] = place
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match="allowed: the name of a .safetensors file in the same folder"):
        load_weights(folder, tiny())


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"weight_map": []}', '{"weight_map": null}', "{", "[" * 100_000])
def test_what_is_no_index_is_one_line(tmp_path, text):
    save_weights(tmp_path, tiny())
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(InputError, match=f"{INDEX}: cannot be read"):
        load_weights(tmp_path, tiny())


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.float64, ""), (torch.float32, ""), (torch.float16, ""), (torch.bfloat16, ""),
        (torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int64, "I64"), (torch.bool, "BOOL"),
    ],
)  # fmt: skip
def test_only_floating_point_weights_are_read(tmp_path, dtype, named):
    model, other = tiny(0), tiny(1)
    save_weights(tmp_path, model)
    [shard] = tmp_path.glob("*.safetensors")
    with safe_open(shard, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    name = "model.transformer.blocks.0.ff_out.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, shard)
    if named:
        with pytest.raises(InputError, match=f"dtype: {name} is {named}; allowed: F16, BF16, F32, F64"):
            load_weights(tmp_path, other)
    else:
        load_weights(tmp_path, other)
        assert torch.equal(other.blocks[0].mlp_out.weight, tensors[name].float())


def test_weights_of_another_configuration_are_refused_though_their_shapes_fit(tmp_path):
    save_weights(tmp_path, tiny())
    other = {"rope_theta": {"rotary_base": 1e4}, "rms_norm_eps": {"norm_epsilon": 1e-6}, "n_heads": {"heads": 4}}
    for field, changes in other.items():
        with pytest.raises(InputError, match=f"{field} is .*, but the model has"):
            load_weights(tmp_path, tiny(**changes))
    load_weights(tmp_path, tiny(length=5))  # shorter texts are the same model's
    with pytest.raises(InputError, match="max_sequence_length is 12, but the model has 13"):
        load_weights(tmp_path, tiny(length=13))
