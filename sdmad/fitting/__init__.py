"""Training runs on Ray Train: `run` is the driver, `worker` one rank, `config` the YAML file."""
