"""The workspace of the fuzzer: credentials that its own requests revoke are replaced before the next request.

The fuzzer may call every operation, also those that revoke its token or archive the project of its source. This module
issues new credentials, in the database.
"""

import os
from uuid import uuid4

from sqlalchemy import text

from app.config import Settings
from app.context import EXTENSION, Context
from app.database.engine import TenantScope
from app.errors import InvalidManagementToken
from app.factory import create_app
from app.management.common.authentication import authenticate
from app.management.common.operators import Operator, Role
from app.management.common.paging import PageRequest
from app.management.environments.domain import list_environments
from app.management.keys.domain import IssuedKey, NewKey
from app.management.projects.domain import NewProject, create_project
from app.management.sources.domain import NewSource, create_source
from app.management.workspace import domain as workspaces
from app.models import SourceType

_CAN_SEND = text("""
    SELECT EXISTS (
        SELECT 1 FROM source_keys key JOIN sources source ON source.id = key.source_id
            JOIN environments environment ON environment.id = source.environment_id
            JOIN projects project ON project.id = source.project_id
        WHERE key.public_id = :public_id AND key.revoked_at IS NULL
            AND (key.expires_at IS NULL OR key.expires_at > now() + interval '1 hour')
            AND key.events_per_second IS NULL AND source.disabled_at IS NULL AND source.archived_at IS NULL
            AND environment.archived_at IS NULL AND project.archived_at IS NULL)
""")


class FuzzedTenant:
    """A new workspace in the installation that the environment describes."""

    def __init__(self) -> None:
        context: Context = create_app(Settings.from_environment(os.environ)).extensions[EXTENSION]
        self._context = context
        workspace, issued = workspaces.create_workspace(context.database, context.credentials, f"fuzzed {uuid4()}")
        self._workspace_id = workspace.id
        self._token = issued.token
        self._key: IssuedKey | None = None

    def token(self) -> str:
        """A management token of the role owner that is valid at this moment."""
        try:
            self._operator()
        except InvalidManagementToken:
            database, credentials = self._context.database, self._context.credentials
            issued = workspaces.issue_workspace_token(database, credentials, self._workspace_id, "again", Role.OWNER)
            self._token = issued.token
        return self._token

    def source_key(self) -> IssuedKey:
        """A source key that can send at this moment."""
        if self._key is None or not self._can_send(self._key):
            self.token()
            self._key = self._new_key()
        return self._key

    def project_id(self) -> str:
        """A project that exists at this moment."""
        self.token()
        return create_project(self._context.database, self._operator(), NewProject(name=f"{uuid4()}")).id

    def _operator(self) -> Operator:
        return authenticate(f"Bearer {self._token}", self._context.credentials, self._context.database)

    def _can_send(self, key: IssuedKey) -> bool:
        with self._context.database.transaction(TenantScope.ALL) as session:
            return bool(session.execute(_CAN_SEND, {"public_id": key.id}).scalar_one())

    def _new_key(self) -> IssuedKey:
        database, operator = self._context.database, self._operator()
        first = PageRequest(1, None, self._context.settings.secret_key)
        environment = list_environments(database, operator, self.project_id(), first).data[0]
        new = NewSource(name="fuzzed", type=SourceType.BACKEND)
        credentials = self._context.credentials
        source = create_source(database, credentials, operator, environment.id, new, NewKey())
        if source.key is None:  # pragma: no cover - it was asked for
            raise TypeError(source.id)
        return source.key
