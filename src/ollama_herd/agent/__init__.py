"""The process `herd-node`: reports one machine and relays to its engines."""
