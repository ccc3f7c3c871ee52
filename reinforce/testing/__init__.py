"""Testing: the laws that every source, codec, op, teacher and engine must keep. Call these checks from tests of your own kind.

Comes in: an object of your own class.
Goes out: nothing, or an AssertionError that says which law the object breaks, and where.
Read first: `operations.py`, which is short; each other module has the laws of the kind that it is named after.
"""
