"""Sources: where encoded images and hard labels come from.

Comes in: the value of `--data`: a folder, webdataset shards, parquet, arrays, a data set of torchvision, or a URL.
Goes out: a `Source`, indexed once: encoded bytes by position, keys, labels, class names.
Read first: `source.py`, the base class of all kinds; then `open_source.py`, the list of kinds.
"""
