"""Stage two: train any timm student by replaying stored views, or, to compare, plainly or with a live teacher."""
