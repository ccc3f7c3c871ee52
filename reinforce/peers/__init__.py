"""Peers: soft labels in the formats of other systems.

Comes in: files of ImageNet+ (ml-dr), FKD, TinyViT or ReLabel, which are never unpickled, and the images they were made from.
Goes out: a store; or, on export, files that the loaders of ml-dr and FKD read.
Read first: `reader.py`, the base of every format's reader; then `importer.py`. A format is one file: `fkd.py`, `ml_dr.py`, ...
"""
