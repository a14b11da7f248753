"""Models fine-tuned on people's answers: one listener's (`personalize`), or a crowd's (`crowd`).

`answers` holds what both share: encoded tracks, the fit, and its evaluation.
"""
