"""Stage two: train any timm student by replay of stored views; to compare, also on hard labels or with a live teacher."""
