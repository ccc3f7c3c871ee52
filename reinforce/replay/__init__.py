"""Replay: the views of an epoch as torch data.

Comes in: a store, its images, an epoch.
Goes out: the very views that the teacher saw with its labels, one by one or in batches.
Read first: `dataset.py`, for any loop; `loader.py` makes the batches of `reinforce train`.
"""
