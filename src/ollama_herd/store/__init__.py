"""The only place that talks to a database: traces, the last known fleet, what was learned.

SQLite in the herd's home by default, PostgreSQL by URL. Every call that reads or writes a database
blocks and belongs in a worker thread (`asyncio.to_thread`); what is safe on the event loop says so.
"""
