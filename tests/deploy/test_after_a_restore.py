"""docs/backup.md: what an operator does with jobs that live again in a restored database."""

import re
from pathlib import Path

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Settings
from app.context import Context
from tests.support.exporting import add_export, export_of
from tests.support.operating import api_of
from tests.support.people import Tenant
from tests.support.replaying import Replays
from tests.support.sending import event_for, send


@pytest.fixture(name="replays")
def _replays(app: Flask, client: FlaskClient, context: Context, alice: Tenant) -> Replays:
    assert send(client, alice, event_for(alice, event_id="1")).status_code == 201
    return Replays(api_of(app, alice), context, alice)


def _statements(checkout: Path) -> list[str]:
    """Those of the section, in its order: what was done, what is pending, and the changes."""
    page = (checkout / "docs" / "backup.md").read_text()
    section = page.partition("### Jobs and consumers that live again")[2].partition("\n## ")[0]
    return [
        each for block in re.findall(r"```sql\n(.*?)```", section, re.DOTALL) for each in block.strip().split(";\n")
    ]


def test_the_statements_of_the_page_end_the_jobs_that_are_named_and_no_others(
    replays: Replays, settings: Settings, checkout: Path
) -> None:
    context, alice = replays.context, replays.tenant
    again = replays.source()
    ended, goes_on = replays.make(again), replays.make(again)
    pending, completed, other = (
        add_export(context, alice, **values)
        for values in ({}, {"state": "completed", "ended_at": "2026-06-02T00:00:00Z"}, {})
    )
    names = [export_of(context, row).public_id for row in (pending, completed)]

    done, living, *changes = _statements(checkout)
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        owner.execute(done.encode())
        shown = {row[1] for row in owner.execute(living.encode()).fetchall()}
        for change in changes:
            text = change.replace("'rep_…'", f"'{ended['id']}'").replace(
                "'exp_…'", ", ".join(f"'{it}'" for it in names)
            )
            owner.execute(text.encode())

    assert shown >= {ended["id"], goes_on["id"], export_of(context, pending).public_id}
    assert names[1] not in shown
    assert replays.turn(ended)["state"] == "cancelled"
    assert replays.ids() == ["1"]
    keys = {each["id"]: each["state"] for each in replays.api.all_of("/v1/keys")}
    assert (keys[ended["key_id"]], keys[goes_on["key_id"]], keys[alice.key_id]) == ("revoked", "active", "active")
    assert [export_of(context, row).state for row in (pending, completed, other)] == [
        "cancelled",
        "completed",
        "queued",
    ]
    assert [replays.api.get(f"/v1/exports/{name}").status_code for name in names] == [404, 404]
    assert replays.turn(goes_on)["stored"] == 1


def test_the_audit_counts_what_the_worker_will_go_on_with(checkout: Path, replays: Replays, settings: Settings) -> None:
    replays.make(replays.source())
    add_export(replays.context, replays.tenant)
    amounts = (checkout / "deploy" / "audit.sql").read_text().partition("-- 3. ")[2].partition("\n")[2]

    with psycopg.connect(settings.admin_database_url) as owner:
        rows: dict[str, int] = dict(row[:2] for row in owner.execute(amounts.partition(";")[0].encode()).fetchall())
    assert rows["replays that are pending"] >= 1
    assert rows["exports that are pending"] >= 1
    assert {"consumers", "exports", "replays"} <= rows.keys()
