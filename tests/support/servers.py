"""Addresses of servers under test, and what concerns our database of a server that has others."""

from urllib.parse import quote

from sqlalchemy import make_url

from app.database.conninfo import conninfo_of

OUR_LOCKS = "pg_locks JOIN pg_stat_activity USING (pid) WHERE datname = current_database() AND"
"""Stands between FROM and a condition: pg_locks shows those of all databases."""

ENDED = "pg_terminate_backend(pid, 30000)"
"""Ends a session and waits until it is gone. Without the time-out it only sends a signal and returns."""


def database_url(server_url: str, role: str, database: str) -> str:
    """`server_url` with another role and database; works for sockets and for TCP."""
    keywords = conninfo_of(server_url)
    host, port = str(keywords.get("host", "")), keywords.get("port")
    if host.startswith("/"):
        extra = f"&port={port}" if port else ""
        return f"postgresql://{role}@/{database}?host={quote(host, safe='/')}{extra}"
    return (
        make_url(server_url)
        .set(username=role, password="test", database=database)
        .render_as_string(hide_password=False)
    )
