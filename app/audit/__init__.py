"""The audit trail: what was changed, by whom, written in the transaction of the change."""
