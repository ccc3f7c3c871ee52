"""Bench: measurements of stage one, the codecs and the store. Those of stage two are in `reinforce.train`.

Comes in: a source and a teacher, or logits, or the size of a synthetic store.
Goes out: rows of measured values with their spread.
Read first: `rounds.py`, which measures contenders in turn.
"""
