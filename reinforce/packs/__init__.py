"""Packs: images, labels and params side by side in webdataset shards.

Comes in: a store and its source, or a source alone.
Goes out: shards with a `pack.json` beside them; `PackedStore`, which reads labels from shards as `Store` does from blocks.
Read first: `pack.py`, which writes; then `packed_store.py`, which reads; `open_labels.py` opens either kind of store.
"""
