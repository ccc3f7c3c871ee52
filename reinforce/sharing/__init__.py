"""Sharing: publish and pull.

Comes in: a store or a pack, and a place: a folder, a bucket, the Hub, a web server.
Goes out: the same at the other end, whole or in part, every file checked against its hash.
Read first: `publication.py`, what stands at the place; then `publish.py` and `pull.py`.
"""
