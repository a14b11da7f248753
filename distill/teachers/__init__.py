"""Teachers: pretrained music encoders behind one protocol, windows of audio in, embeddings out.

`registry.load_teacher` is the door; `base` holds the protocol.
"""
