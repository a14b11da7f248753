"""Training: teachers, cache, losses, the loop, evaluation, export, reports."""
