"""Sharing: publish and pull.

Comes in: a store or a pack, and a place: a folder, a bucket, the Hub, a web server.
Goes out: a copy there or, when pulled, here, whole or in part, with every file checked against its hash.
Read first: `publication.py` (the files at the place); then `publish.py` and `pull.py`.
"""
