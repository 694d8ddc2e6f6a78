"""How a task is trained: the loop, the engines, checkpoints, several processes."""
