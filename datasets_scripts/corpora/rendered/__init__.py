"""The styles corpus: tracks composed by rule and rendered with free SoundFonts.

`composition` composes and arranges them, `styles` renders them and builds the corpus.
"""
