"""Peers: soft labels in the formats of other systems.

Comes in: files of ImageNet+ (ml-dr), FKD, TinyViT or ReLabel, never unpickled, and the images that they are of.
Goes out: a store; or, on export, files that the loaders of ml-dr and FKD read.
Read first: `reader.py`, what every format gives; then `importer.py`. A format is one file: `fkd.py`, `ml_dr.py`, ...
"""
