"""The commands `herd` and `herd-node`."""
