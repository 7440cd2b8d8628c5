"""The store on real databases: SQLite always, PostgreSQL where its programs are installed."""
