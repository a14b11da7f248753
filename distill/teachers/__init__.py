"""Teachers: pretrained music encoders behind one protocol, windows of audio in, embeddings out.

`registry.load_teacher` loads one by name; `base.Teacher` is the protocol.
"""
