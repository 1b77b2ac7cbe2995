"""PostgreSQL: engines and transactions, deadlines on a connection, locks, the schema and row level security."""
