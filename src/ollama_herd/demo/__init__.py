"""A herd on one machine, for people who want to see it work: a model, engines, their processes."""
