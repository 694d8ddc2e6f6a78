import pytest
import torch

from mdlm_min.diffusion.collator import IGNORED, Keyed, MaskCollator, scheduled_loss
from mdlm_min.diffusion.density import InformationDensity
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
    return MaskCollator(schedule, MASK, PAD, seed, steps=2)([data[number] for number in chosen])


def weights_of(labels):
    """Weights of labels, at tokens that may be masked."""
    return labels[..., 2].int().view(torch.float32)


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
        assert labels[prompt:length, 1].tolist() == sample["input_ids"][prompt:]
        weight = weights_of(labels[prompt:length])
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
    masked, allowed = batch["input_ids"] == MASK, labels[..., 1] != IGNORED
    tokens = labels[..., 1].clamp(min=0)
    nll = -logits.log_softmax(dim=2).gather(2, tokens[..., None])[..., 0]
    rate = torch.stack([1 / row[row > 0].max() for row in weights_of(labels).masked_fill(~allowed, 0)])
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
    allowed = batch["labels"][..., 1] != IGNORED
    for row in (0, 2):
        assert torch.equal(masked[row] ^ masked[row + 1], allowed[row])


class Moving(MaskSchedule):
    """From rate .25 to .75 in the course of the run."""

    name = "moving"

    def sample(self, context, generator):
        return torch.full((context.rows,), 0.25 + 0.5 * context.step / (context.steps - 1))


def test_a_schedule_that_moves_ends_with_the_run():
    collator = MaskCollator(Moving(), MASK, PAD, 0, steps=11)
    for step, weight in ((0, 4.0), (10, 4 / 3)):
        labels = collator([{"input_ids": [1] * 40, "sample": 0, "step": step}])["labels"]
        assert weights_of(labels).max() == pytest.approx(weight)
    with pytest.raises(InputError, match="step: 11 is not allowed; from 0 to 10, below the collator's steps"):
        collator([{"input_ids": [1], "sample": 0, "step": 11}])


def test_the_data_s_padding_is_not_masked_and_its_marks_are_seen():
    collator = MaskCollator(InformationDensity(MaskRate.parse("0.5"), hard=True, pairs=False), MASK, PAD, 0, steps=1)
    sample = {
        "input_ids": [3] * 8,
        "attention_mask": [1] * 6 + [0] * 2,
        "marks": [0, 1, 0, 1, 0, 1, 1, 1],
        "sample": 0,
        "step": 0,
    }
    batch = collator([sample])
    assert batch["attention_mask"].tolist() == [sample["attention_mask"]]
    assert (batch["labels"][0, :, 1] != IGNORED).tolist() == [True] * 6 + [False] * 2
    assert (batch["input_ids"][0] == MASK).tolist() == [False, True, False, True, False, True, False, False]


def test_labels_are_whole_numbers_which_deepspeed_does_not_round():
    batch = MaskCollator(WINDOW, MASK, PAD, 0, steps=1)([{"input_ids": [40000, 40003, 2**40], "sample": 1, "step": 0}])
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["labels"][0, :, 1].tolist() == [40000, 40003, 2**40]
    with pytest.raises(InputError, match=r"labels: torch.bfloat16 of shape \(1, 3, 3\) are not allowed"):
        scheduled_loss({"logits": torch.zeros(1, 3, 9)}, batch["labels"].bfloat16())


def test_a_batch_without_a_token_to_train_on_has_no_loss():
    sample = {"input_ids": [1, 2], "labels": [IGNORED] * 2, "sample": 0, "step": 0}
    labels = MaskCollator(WINDOW, MASK, PAD, 0, steps=1)([sample])["labels"]
    logits = torch.zeros(1, 2, 9, requires_grad=True)
    loss = scheduled_loss({"logits": logits}, labels)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_workers_that_outlive_an_epoch_see_the_next_one():
    data = Keyed(samples())
    loader = torch.utils.data.DataLoader(data, 6, num_workers=1, persistent_workers=True, collate_fn=list)
    for epoch in range(2):
        data.set_epoch(epoch)
        assert {sample["step"] for batch in loader for sample in batch} == {epoch}


def test_what_cannot_be_used_is_one_line():
    class Learning(Pairs):
        name, needs = "learning", ("nll",)

    class Negative(Pairs):
        name = "negative"

        def weight(self, rate, mask, context):
            return -rate

    class Keeping(Pairs):
        name = "keeping"

        def admit(self, context):
            return context

    with pytest.raises(InputError, match="schedule learning: needs nll, which a collator does not have"):
        MaskCollator(Learning(), MASK, PAD, 0, 1)
    with pytest.raises(InputError, match="schedule keeping: keeps sequences over several steps"):
        MaskCollator(Keeping(), MASK, PAD, 0, 1)
    with pytest.raises(InputError, match="schedule negative: a weight of -0"):
        collated([0], schedule=Negative())
    with pytest.raises(InputError, match="steps: 0 is not allowed; a whole number, at least 1"):
        MaskCollator(WINDOW, MASK, PAD, 0, 0)
    with pytest.raises(InputError, match="sample: a sample lacks it; wrap the dataset in Keyed"):
        MaskCollator(WINDOW, MASK, PAD, 0, 1)(samples())
    with pytest.raises(InputError, match="samples: none were given; at least one"):
        MaskCollator(WINDOW, MASK, PAD, 0, 1)([])
    with pytest.raises(InputError, match=r"pad_token: 1\.5 is not allowed; a whole number, at least 0"):
        MaskCollator(WINDOW, MASK, 1.5, 0, 1)
    for changed, message in (
        ({"input_ids": []}, r"input_ids: shape \(0,\) is not allowed; the ids of at least one token"),
        ({"labels": [1]}, r"labels: shape \(1,\) is not allowed; \(2,\), as many as input_ids has"),
        ({"step": -1}, "step: -1 is not allowed; from 0 to 0"),
        ({"step": 0.0}, r"step: 0\.0 is not allowed; a whole number"),
        ({"sample": 3.0}, r"sample: 3\.0 is not allowed; a whole number"),
        ({"input_ids": [1.7, 2.0]}, "input_ids: torch.float32 is not allowed; whole numbers"),
        ({"input_ids": [1, -100]}, "input_ids: -100 is not allowed; token ids, at least 0, without mask_token = 90"),
        ({"input_ids": [MASK, 1]}, "input_ids: 90 is not allowed; token ids, at least 0, without mask_token = 90"),
        ({"input_ids": None}, "input_ids: None is not allowed; a list or tensor of numbers"),
        ({"labels": None}, "labels: None is not allowed; a list or tensor of numbers"),
    ):
        with pytest.raises(InputError, match=message):
            MaskCollator(WINDOW, MASK, PAD, 0, 1)([{"input_ids": [1, 2], "sample": 0, "step": 0, **changed}])


@pytest.mark.parametrize("make", [lambda rate: RateSchedule(rate), lambda rate: InformationDensity(rate)])
def test_a_mask_rate_in_its_notation_is_refused(make):
    with pytest.raises(InputError, match=r"rate: 'U\[0.3,0.8\]' is not allowed; a MaskRate, such as MaskRate.parse"):
        make("U[0.3,0.8]")


class Recorder(MaskCollator):
    """Keeps the keys of the samples that it was given."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.keys = []

    def __call__(self, samples):
        self.keys += [(sample["step"], sample["sample"]) for sample in samples]
        return super().__call__(samples)


SIZE = {"vocab_size": 92, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def trained(folder, rows, accumulated, causal=False, loss=scheduled_loss):
    """Weights after six steps of eight samples, two epochs, in passes of `rows`; and the keys of all samples."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    if causal:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZE, max_position_embeddings=64))
    else:
        model = transformers.BertForMaskedLM(
            transformers.BertConfig(**SIZE, max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        )
    collator = Recorder(WINDOW, MASK, PAD, 0, 2)
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(folder), num_train_epochs=2, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulated,
            learning_rate=1e-2, max_grad_norm=0.0, remove_unused_columns=False, save_strategy="no", report_to="none",
            use_cpu=True, seed=0, disable_tqdm=True, optim="sgd", lr_scheduler_type="constant",
        ),
        train_dataset=Keyed(samples(24)),
        data_collator=collator,
        compute_loss_func=loss,
    )  # fmt: skip
    trainer.train()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), collator.keys


def test_in_a_trainer_the_epoch_keys_the_masks_and_accumulation_changes_nothing(tmp_path):
    one, keys = trained(tmp_path / "one", 8, 1)
    assert sorted(keys) == [(epoch, number) for epoch in range(2) for number in range(24)]
    two, _ = trained(tmp_path / "two", 2, 4)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_trainer_counts_the_tokens_of_a_causal_model_s_class_as_we_do(tmp_path):
    """Trainer counts the labels of a class ...ForCausalLM but for the first of the last axis."""
    losses = []

    def both(outputs, labels, num_items_in_batch=None):
        losses.append((scheduled_loss(outputs, labels, num_items_in_batch), scheduled_loss(outputs, labels)))
        return losses[-1][0]

    for causal in (False, True):
        losses.clear()
        trained(tmp_path / f"{causal}", 8, 1, causal, both)
        for counted, alone in losses:
            torch.testing.assert_close(counted, alone)


def test_the_loss_is_taken_in_float32():
    labels = MaskCollator(WINDOW, 90, 91, 0, 1)([{"input_ids": list(range(40)), "sample": 0, "step": 0}])["labels"]
    logits = torch.randn(1, 40, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert scheduled_loss({"logits": logits}, labels) == scheduled_loss({"logits": logits.float()}, labels)


def test_a_count_of_items_that_every_device_was_given_is_one_count():
    labels = MaskCollator(WINDOW, 90, 91, 0, 1)([{"input_ids": list(range(40)), "sample": 0, "step": 0}])["labels"]
    logits, items = torch.randn(1, 40, 100, generator=torch.Generator().manual_seed(0)), torch.tensor(80)
    assert scheduled_loss({"logits": logits}, labels, items.repeat(2)) == scheduled_loss({"logits": logits}, labels, items)


def test_each_copy_has_the_marks():
    seen = []

    class Pair(MaskSchedule):
        name, copies, needs = "pair", 2, ("marks",)

        def sample(self, context, generator):
            seen.append(context.marks.shape)
            return torch.full((context.rows,), 0.5)

    MaskCollator(Pair(), 90, 91, 0, 1)([{"input_ids": [1, 2, 3], "marks": [0, 1, 0], "sample": 0, "step": 0}])
    assert seen[-1] == (2, 3)
