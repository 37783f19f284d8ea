"""SD-MAD: sign-driven few-shot multi-anomaly detection in medical images, on Ray.

from sdmad import Detector
scores = Detector.load("s3://bucket/train/fits/shots=4").score(paths)
scores[0].findings, scores.to_pandas()
"""

from typing import Any

__all__ = ["Detector"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: reader processes import parts of sdmad and need no torch.
    if name == "Detector":
        from sdmad.detector import Detector

        return Detector
    raise AttributeError(f"module 'sdmad' has no attribute {name!r}")
