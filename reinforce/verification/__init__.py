"""Verification: all checks of a store or a pack, and a summary of its contents.

Comes in: a folder; given its images, pixels are checked too; given its teacher, labels are too.
Goes out: counts of checked and of failed things; nothing is repaired.
Read first: `verify.py`; `verify_pack.py` does the same for shards, `summary.py` describes the contents.
"""
