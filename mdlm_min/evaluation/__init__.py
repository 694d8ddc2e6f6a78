"""Evaluation by lm-eval: the model `mdlm`, the paper's tasks, and tasks over local files."""
