"""Generation: stage one.

Comes in: a source, a teacher, settings.
Goes out: a store, block by block; or, before that, what it would cost.
Read first: `generate.py`, then `local_engine.py` and `block_labels.py`, what is done for one block.
"""
