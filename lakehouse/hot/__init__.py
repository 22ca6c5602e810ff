"""The time-series database: TimescaleDB or plain PostgreSQL behind one face."""
