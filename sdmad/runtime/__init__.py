"""What surrounds every job: the command line, the connection to Ray, progress."""
