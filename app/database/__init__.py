"""PostgreSQL: engines and transactions, deadlines of connections, advisory locks, the schema and row security."""
