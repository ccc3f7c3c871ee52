"""Replay: the views of an epoch as torch data.

Comes in: a store, its images, an epoch.
Goes out: exactly the views that the teacher saw, with the teacher's labels, one by one or in batches.
Read first: `dataset.py`, for any training loop; then `loader.py`, which makes the batches of `reinforce train`.
"""
