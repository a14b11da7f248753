"""The styles corpus: tracks composed by rule and rendered with free SoundFonts.

`songs` composes and arranges, `styles` renders them and builds the corpus.
"""
