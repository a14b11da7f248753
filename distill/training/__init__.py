"""Training: initial weights, targets in the teacher's space, losses, and the training loop.

`train.distill` trains the window CNN, `train.finetune` the head and the linear metric.
"""
