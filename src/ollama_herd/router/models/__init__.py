"""Managing the models of the fleet: show, pull, push, create, copy, delete, blobs, accounts."""
