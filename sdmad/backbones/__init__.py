"""Frozen open_clip models: `loading` finds and loads them, `towers` splits them at the first
adapted block, `packed` and `precision` make them fast for inference."""
