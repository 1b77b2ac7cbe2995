"""The query and the response of the feed."""

from dataclasses import dataclass
from typing import Any, Final

from marshmallow import ValidationError, fields, validate

from app.context import current_context
from app.events.feed.cursors import BEGIN, FeedCursors, Place
from app.events.feed.domain import Feed
from app.events.feed.known_followers import WAIT_SECONDS_MAX
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.schemas import EventSchema, query_field
from app.management.common.operators import Operator
from app.management.common.schemas import DigitsField, RequestSchema, id_field
from app.web.schema_fields import OutputSchema

LIMIT_MAX: Final = 1_000
LIMIT_DEFAULT: Final = 100
_START: Final = "start"
_NOW: Final = "now"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedRequest:
    """The next events of a project: behind which place, how many, and for how many seconds to wait for the first."""

    project_id: str
    q: str
    cursor: str
    limit: int
    wait: int

    @property
    def feed(self) -> Feed:
        """Raises SchemaValidationFailed for a query that is wrong."""
        return Feed(self.project_id, parse(self.q))

    def cursors_of(self, operator: Operator) -> FeedCursors:
        """The cursors of this feed, as the caller may use them."""
        secret_keys = current_context().settings.secret_key
        return FeedCursors.of(secret_keys, operator, self.project_id, print_query(self.feed.node))

    def place(self, cursors: FeedCursors) -> Place | None:
        """Where to begin; None: behind all that can be read now. Raises SchemaValidationFailed."""
        if self.cursor == _NOW:
            return None
        return BEGIN if self.cursor == _START else cursors.read(self.cursor)


class SecondsField(fields.Integer):
    """Whole seconds in a query, from 0 on."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not (value.isascii() and value.isdecimal() and len(value) <= len(str(WAIT_SECONDS_MAX))):
            raise ValidationError(f"Must be a whole number from 0 to {WAIT_SECONDS_MAX}.")
        return super()._deserialize(value, attr, data, **kwargs)


class FeedQuerySchema(RequestSchema):
    makes = FeedRequest

    project_id = id_field("an unknown one is not found")
    project_id.required = True
    q = query_field(load_default="")
    cursor = fields.String(
        load_default=_START,
        metadata={
            "pattern": "^[0-9A-Za-z_.-]{1,200}$",
            "description": "The next_cursor of the page before, for the same project, query and token;"
            " or start: from the oldest event on, or now: what comes from now on.",
        },
    )
    limit = DigitsField(LIMIT_MAX, "How many events a page has at most.", load_default=LIMIT_DEFAULT)
    wait = SecondsField(
        load_default=0,
        validate=validate.Range(0, WAIT_SECONDS_MAX),
        metadata={"description": "How many seconds to wait for an event if there is none yet."},
    )


class EventFeedSchema(OutputSchema):
    """Some events in their order, and where the next page begins."""

    data = fields.List(fields.Nested(EventSchema), required=True)
    next_cursor = fields.String(
        required=True, metadata={"description": "Asks for what comes after this page; also of an empty page."}
    )
