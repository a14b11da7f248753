"""Fine-tuning on human answers: of one listener (`personalize`) or of many raters (`crowd`).

`answers` encodes tracks, fits a head and evaluates it; `embed` writes a table of embeddings.
"""
