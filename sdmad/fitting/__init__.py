"""Training runs on Ray Train: `run` is the driver's side, `worker` what one rank does."""
