"""Store: a reinforced dataset on disk.

Comes in: blocks of params, records and checksums, and the table of samples.
Goes out: a folder that FORMAT.md describes, and `Store`, which reads it.
Read first: `label_store.py`, the base of every kind of store; then `store.py`, `block.py` (the unit of commit) and
`manifest.py` (the description of the whole data set).
"""
