"""Bench: what is measured of stage one, the codecs and the store. Stage two measures itself in `reinforce.train`.

Comes in: a source and a teacher, or logits, or the size of a store that is made up.
Goes out: rows of figures with their spread.
Read first: `rounds.py`, how contenders take turns.
"""
