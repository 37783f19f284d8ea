"""SD-MAD: sign-driven few-shot multi-anomaly detection in medical images, on Ray."""
