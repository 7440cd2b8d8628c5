"""The process `herd`: data plane, dispatcher, registry, control plane."""
