"""The embedded default: synthetic *phantoms* and a small CLIP trained on other phantoms.

A phantom is a 64 x 64 grey image of a simple organ in which known signs are drawn, so that every
label and every mask is known. `anatomy` draws organs, `signs` draws signs, `render` puts an image
together, `task` is the few-shot task of the demo (a held-out organ), `captions` and `pretraining`
make the backbone that `weights/` ships.
"""
