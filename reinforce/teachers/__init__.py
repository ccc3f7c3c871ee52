"""Teachers: models by name, and what an ensemble of them says of a batch.

Comes in: names of timm models, weights files, a class map, a device.
Goes out: a `Teacher`: uint8 views `[B, 3, H, W]` to distributions float32 `[B, C]`.
Read first: `teacher.py`, then `open_teacher.py`, which kinds there are; `models.py` creates timm models, students too.
"""
