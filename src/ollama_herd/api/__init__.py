"""Pure wire formats: bytes and plain values in, bytes and plain values out."""
