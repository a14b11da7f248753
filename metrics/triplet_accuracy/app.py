"""The page of the Space: the metric in a form."""

import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("triplet_accuracy.py"))
