"""What the agent itself runs beside engines: commands that make pictures, recognisers of speech."""
