"""Reading engines: what listens at an address, and which models it has on disk and in memory.

Agents read those of their machine; the router those that its settings name.
"""
