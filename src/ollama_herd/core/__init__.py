"""Pure decisions: values in, values out. No I/O, clock, asyncio, logging or randomness."""
