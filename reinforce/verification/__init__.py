"""Verification: everything about a store or a pack that can be checked, and what is in it.

Comes in: a folder; with its images pixels are checked too, with its teacher labels.
Goes out: counts of what was looked at and what failed; nothing is repaired.
Read first: `verify.py`; `verify_pack.py` does the same for shards, `summary.py` says what there is.
"""
