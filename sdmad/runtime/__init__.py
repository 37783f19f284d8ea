"""What every job shares: the command line, the connection to Ray, progress output."""
