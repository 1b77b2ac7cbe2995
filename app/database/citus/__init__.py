"""What differs where a cell is a schema of a Citus cluster: all of its tables lie on one node, and any node takes
statements for them (docs/decisions/0028). On plain PostgreSQL nothing of this runs but one question for each pool.
"""
