"""Ollama Herd: one endpoint in front of every machine that runs Ollama."""

__version__ = "0.1.0"
