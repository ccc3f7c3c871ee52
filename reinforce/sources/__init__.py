"""Sources: where encoded images and hard labels come from.

Comes in: what a user gives as `--data`: a folder, webdataset shards, parquet, arrays, a data set of torchvision, or a URL.
Goes out: a `Source`, indexed once: encoded bytes by position, keys, labels, class names.
Read first: `source.py`, what every kind is; then `open_source.py`, which kinds there are.
"""
