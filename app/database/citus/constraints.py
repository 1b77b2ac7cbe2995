"""The names by which a cluster reports what a statement has broken."""

import re
from typing import Final

_SHARD: Final = re.compile(r"_[0-9]+$")


def without_shard(constraint: str | None) -> str | None:
    """The constraint of the table, where that of a shard is named, `uq_projects_workspace_id_name_102032`; else itself.

    No name of ours ends in a number.
    """
    return constraint and _SHARD.sub("", constraint)
