"""The whole job on the embedded default, on an S3 server of this machine (`make demo`)."""
