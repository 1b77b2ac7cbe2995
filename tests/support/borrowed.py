"""The tests of other modules, to be run in a module whose fixtures are others."""

from types import ModuleType
from typing import Final

from _pytest.fixtures import FixtureFunctionDefinition

# What they do to the database themselves is nothing that Citus takes, or they look for locks where they speak to.
_UNFIT: Final = frozenset(
    (
        "test_a_change_of_rights_waits_for_every_ingest_that_may_not_have_seen_it",
        "TestStorage",
        "TestBatches",
    )
)


def borrowed_from(*modules: ModuleType) -> dict[str, object]:
    """Tests and fixtures, by names that are still single."""
    found: dict[str, object] = {}
    for module in modules:
        place = module.__name__.rpartition(".test_")[2]
        for name, value in vars(module).items():
            if isinstance(value, FixtureFunctionDefinition):
                found[f"{name}_{place}"] = value
            elif getattr(value, "__module__", "") != module.__name__ or name in _UNFIT:
                continue
            elif name.startswith("Test"):
                found[f"{name}_{place}"] = value
            elif name.startswith("test_"):
                found[f"test_{place}_{name.removeprefix('test_')}"] = value
    return found
