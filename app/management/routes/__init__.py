"""The HTTP face of the control plane: every blueprint here opens with a management token."""

from typing import Final

from flask_smorest import Blueprint

BLUEPRINTS: Final[tuple[Blueprint, ...]] = ()
