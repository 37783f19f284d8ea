"""Frozen open_clip models: `loading` finds and loads them, `architectures` says which cannot be
adapted, `towers` splits them at the first adapted block, `packed` and `precision` make them fast
for inference."""
