"""The demo: the whole workflow on synthetic images, with an S3 server on this machine."""
