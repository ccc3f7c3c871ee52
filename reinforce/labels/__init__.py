"""Labels: soft labels in sparse form, and the codecs that make bytes of them.

Comes in: a teacher's distributions of all views of a sample, float32 `[V, C]`, or a map of scores.
Goes out: a record, bytes; and from a record sparse labels that are distributions again.
Read first: `sparse.py`, then `codec.py`, what every codec is; `codecs.py` says which there are.
"""
