"""``task=lengths``: time, memory and FLOPs of a mixer, a block or a model against the length."""
