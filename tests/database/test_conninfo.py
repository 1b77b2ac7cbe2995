"""conninfo_of(): database URLs of one server and of several hosts, as libpq takes them."""

import pytest
from sqlalchemy import text

from app.config import Settings
from app.database.conninfo import conninfo_of
from app.database.engine import Database, TenantScope
from tests.support.databases import close


@pytest.mark.parametrize(
    ("url", "keywords"),
    [
        ("postgresql://app@db/lariba", {"host": "db", "dbname": "lariba", "user": "app"}),
        ("postgresql://app:p%40ss@db:5433/lariba", {"host": "db", "port": 5433, "password": "p@ss"}),
        ("postgresql://app@/lariba?host=/run/pg", {"host": "/run/pg"}),
        ("postgresql+psycopg://app@one,two/lariba", {"host": "one,two", "dbname": "lariba", "user": "app"}),
        ("postgresql://app@one:5432,two:5433/lariba", {"host": "one,two", "port": "5432,5433"}),
        ("postgresql://app@one,two:5433/lariba", {"host": "one,two", "port": ",5433"}),
        ("postgresql://app:a,b/c:1@one:1,[::1]:2/lariba", {"host": "one,::1", "port": "1,2", "password": "a,b/c:1"}),
        ("postgresql://one,two", {"host": "one,two"}),
        ("postgresql://app@/lariba?host=one:5432&host=two:5433", {"host": "one,two", "port": "5432,5433"}),
        ("postgresql://app@/lariba?host=/run/a&host=/run/b", {"host": "/run/a,/run/b"}),
        ("postgresql://app:a,b@one/lariba", {"host": "one", "password": "a,b"}),
        (
            "postgresql://app@one,two/lariba?target_session_attrs=read-write&sslmode=require",
            {"host": "one,two", "target_session_attrs": "read-write", "sslmode": "require"},
        ),
    ],
)
def test_a_url_means_what_libpq_and_sqlalchemy_say(url: str, keywords: dict[str, object]) -> None:
    found = conninfo_of(url)

    assert {name: found.get(name) for name in keywords} == keywords
    assert ("port" in found) == ("port" in keywords)


def test_of_several_hosts_the_one_that_takes_writes_is_used(settings: Settings) -> None:
    keywords = conninfo_of(settings.database_url)
    host, port = keywords["host"], keywords.get("port", 5432)
    password = f":{keywords['password']}" if "password" in keywords else ""
    account = f"postgresql://{keywords['user']}{password}@"
    hosts = f"/{keywords['dbname']}?host=127.0.0.1:1&host={host}" + ("" if str(host).startswith("/") else f":{port}")
    database = Database(f"{account}{hosts}&target_session_attrs=read-write", pool_size=1)
    with database.transaction(TenantScope.NONE) as session:
        found = session.execute(text("SELECT current_database()")).scalar_one()
    close(database)

    assert found == keywords["dbname"]
