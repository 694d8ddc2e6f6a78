"""A mask schedule in Hugging Face's Trainer: one collator, one loss function. Needs transformers and accelerate."""

# %% The schedule: the paper's window
import torch
from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

from mdlm_min import Keyed, MaskCollator, MaskRate, RateSchedule, scheduled_loss

schedule = RateSchedule(MaskRate.parse("U[0.45,0.55]"), weight="1/t")

# %% A model without a causal mask, and data: here sequences that count up
EPOCHS, LENGTH, VOCABULARY, MASK, PAD = 150, 16, 10, 10, 11
model = BertForMaskedLM(
    BertConfig(
        vocab_size=12, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )
)  # fmt: skip
samples = [{"input_ids": ((start + torch.arange(LENGTH)) % VOCABULARY).tolist()} for start in range(64)]

# %% Train
trainer = Trainer(
    model,
    TrainingArguments(
        "runs/hf_trainer", num_train_epochs=EPOCHS, per_device_train_batch_size=16, learning_rate=3e-3, logging_steps=50,
        remove_unused_columns=False, save_strategy="no", report_to="none", use_cpu=True, seed=0, disable_tqdm=True,
    ),
    train_dataset=Keyed(samples),
    data_collator=MaskCollator(schedule, mask_token=MASK, pad_token=PAD, seed=0, steps=EPOCHS),
    compute_loss_func=scheduled_loss,
)  # fmt: skip
trainer.train()
losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]  # each the mean of 50 steps
print(f"loss of the first and the last 50 of {trainer.state.global_step} steps: {losses[0]:.3f}, {losses[-1]:.3f}")
