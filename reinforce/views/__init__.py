"""Views: from encoded bytes to the exact pixels of a view.

Comes in: encoded bytes, a policy, a generator; or, on replay, the bytes and stored params.
Goes out: params, the int32 row that defines a view, and its pixels, uint8 `[3, size, size]`.
Read first: `params.py`, what is stored of a view; then `draw.py` (generator to params) and `apply.py` (params to pixels).
"""
