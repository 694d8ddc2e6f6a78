import pytest
import torch

from mdlm_min.diffusion.collator import IGNORED, Keyed, MaskCollator, scheduled_loss
from mdlm_min.diffusion.mask_rate import MaskRate
from mdlm_min.diffusion.mask_schedule import Context, MaskSchedule, RateSchedule, ScheduledDiffusion
from mdlm_min.diffusion.masking import complement
from mdlm_min.run.errors import InputError

MASK, PAD = 90, 91
WINDOW = RateSchedule(MaskRate.parse("U[0.3,0.7]"), "1/t")


def samples(count=6):
    """Samples of different lengths; odd ones have a prompt of three tokens."""
    made = []
    for number in range(count):
        tokens = list(range(number, number + 8 + 2 * number))
        labels = [IGNORED] * 3 + tokens[3:]
        made.append({"input_ids": tokens, **({"labels": labels} if number % 2 else {})})
    return made


def collated(chosen, step=0, seed=0, schedule=WINDOW):
    data = Keyed(samples())
    data.set_epoch(step)
    return MaskCollator(schedule, MASK, PAD, seed)([data[number] for number in chosen])


def test_what_the_model_reads_and_what_it_is_trained_on():
    batch = collated(range(6))
    for row, sample in enumerate(samples()):
        length = len(sample["input_ids"])
        inputs, labels = batch["input_ids"][row], batch["labels"][row]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (18 - length)
        assert (inputs[length:] == PAD).all()
        assert (labels[length:] == IGNORED).all()
        prompt = 3 if row % 2 else 0
        assert (labels[:prompt] == IGNORED).all()
        masked = inputs[:length] == MASK
        assert masked.any()
        assert not masked[:prompt].any()
        assert inputs[:length][~masked].tolist() == [
            t for t, m in zip(sample["input_ids"], masked.tolist(), strict=True) if not m
        ]
        assert labels[prompt:length, 0].tolist() == sample["input_ids"][prompt:]
        weight = labels[prompt:length, 1]
        assert torch.equal(weight > 0, masked[prompt:])
        assert weight[weight > 0].min() >= 1 / 0.7
        assert weight.max() <= 1 / 0.3


def test_masks_are_keyed_by_seed_step_and_sample_not_by_the_batch():
    """So they are the same on any number of processes, however samples are shared out."""
    whole = collated(range(6))
    for part in ([0, 1, 2], [5, 3], [4]):
        batch = collated(part)
        length = batch["input_ids"].shape[1]
        for row, number in enumerate(part):
            assert torch.equal(batch["input_ids"][row], whole["input_ids"][number][:length])
            assert torch.equal(batch["labels"][row], whole["labels"][number][:length])
    for other in (collated(range(6), step=1), collated(range(6), seed=1)):
        assert not torch.equal(other["input_ids"], whole["input_ids"])


def test_the_loss_is_the_schedule_s_and_parts_add_up_to_the_batch():
    logits = torch.randn(6, 18, 100, generator=torch.Generator().manual_seed(0))
    batch = collated(range(6))
    labels = batch["labels"]
    masked, allowed = batch["input_ids"] == MASK, labels[..., 0] != IGNORED
    tokens = labels[..., 0].long().clamp(min=0)
    nll = -logits.log_softmax(dim=2).gather(2, tokens[..., None])[..., 0]
    rate = torch.stack([1 / row[row > 0].max() for row in labels[..., 1]])
    expected = ScheduledDiffusion(WINDOW).loss(nll[masked], masked, rate, context=Context(6, 18, allowed=allowed))
    torch.testing.assert_close(scheduled_loss({"logits": logits}, labels), expected)
    items = (labels != IGNORED).sum()  # as a Trainer counts them over accumulated batches and processes
    parts = [scheduled_loss({"logits": logits[part]}, labels[part], items) for part in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(sum(parts), expected)


class Pairs(MaskSchedule):
    name, copies = "pairs", 2

    def sample(self, context, generator):
        rate = 0.2 + 0.6 * torch.rand(context.rows // 2, generator=generator)
        return torch.stack((rate, 1 - rate), dim=1).flatten()

    def mask(self, rate, context, generator):
        mask = super().mask(rate, context, generator)[::2]
        return torch.stack((mask, complement(mask, context.allowed[::2])), dim=1).flatten(0, 1)


def test_a_pair_is_two_rows():
    batch = collated([2, 3], schedule=Pairs())
    assert batch["input_ids"].shape[0] == 4
    masked = batch["input_ids"] == MASK
    allowed = batch["labels"][..., 0] != IGNORED
    for row in (0, 2):
        assert torch.equal(masked[row] ^ masked[row + 1], allowed[row])


def test_what_cannot_be_used_is_one_line():
    class Learning(Pairs):
        name, needs = "learning", ("nll",)

    with pytest.raises(InputError, match="schedule learning: needs nll, which a collator does not have"):
        MaskCollator(Learning(), MASK, PAD, 0)
    with pytest.raises(InputError, match="sample: a sample lacks it; wrap the dataset in Keyed"):
        MaskCollator(WINDOW, MASK, PAD, 0)(samples())
    with pytest.raises(InputError, match="input_ids: 16777216 is not allowed; below 16777216"):
        MaskCollator(WINDOW, MASK, PAD, 0)([{"input_ids": [1 << 24], "sample": 0, "step": 0}])


class Recorder(MaskCollator):
    """Keeps the keys of the samples that it was given."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.keys = []

    def __call__(self, samples):
        self.keys += [(sample["step"], sample["sample"]) for sample in samples]
        return super().__call__(samples)


def trained(folder, rows, accumulated):
    """Weights after six steps of eight samples, two epochs, in passes of `rows`; and the keys of all samples."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=92, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
            max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip
    collator = Recorder(WINDOW, MASK, PAD, 0)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(folder), num_train_epochs=2, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated,
            learning_rate=1e-2, max_grad_norm=0.0, remove_unused_columns=False, save_strategy="no", report_to="none",
            use_cpu=True, seed=0, disable_tqdm=True, optim="sgd", lr_scheduler_type="constant",
        ),
        train_dataset=Keyed(samples(24)),
        data_collator=collator,
        compute_loss_func=scheduled_loss,
    )  # fmt: skip
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), collator.keys


def test_in_a_trainer_the_epoch_keys_the_masks_and_accumulation_changes_nothing(tmp_path):
    one, keys = trained(tmp_path / "one", 8, 1)
    assert sorted(keys) == [(epoch, number) for epoch in range(2) for number in range(24)]
    two, _ = trained(tmp_path / "two", 2, 4)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
