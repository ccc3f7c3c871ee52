"""Testing: the laws that a source, codec, op, teacher or engine of one's own must keep, to be called from one's own tests.

Comes in: an object of one's own.
Goes out: nothing, or an AssertionError that says which law it breaks, and where.
Read first: `operations.py`, the shortest; the others are named after what they hold.
"""
