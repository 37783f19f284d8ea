"""The embedded default: synthetic *phantoms*, and a small CLIP trained on other phantoms.

A phantom is a 64 x 64 grey image of a simple organ with known signs drawn into it, so that every
label and every mask is known. `anatomy` draws organs and `signs` draws signs; `render` composes an
image. `task` is the few-shot task of the demo, on a held-out organ. `captions` and `pretraining`
make the backbone in `weights/`.
"""
