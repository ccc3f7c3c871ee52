"""Labels: soft labels in sparse form, and the codecs that turn them into bytes.

Comes in: a teacher's distributions of all views of a sample, float32 `[V, C]`, or a map of scores.
Goes out: a record (bytes); and, read from a record, sparse labels, which are distributions.
Read first: `sparse.py`, then `codec.py`, the base of all codecs; `codecs.py` lists them.
"""
