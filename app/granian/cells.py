"""Answers granian's requests in a process that serves several cells, each with an adapter of its own."""

import asyncio
from collections.abc import Mapping

from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from app.cells.serving import ServedCells
from app.granian.adapter import GranianAdapter


class CellAdapters:
    """As a GranianAdapter."""

    def __init__(self, adapters: Mapping[str, GranianAdapter]) -> None:
        self._adapters = list(adapters.values())
        self._cells = ServedCells(adapters)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        for adapter in self._adapters:
            adapter.__rsgi_init__(loop)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        for adapter in reversed(self._adapters):
            adapter.__rsgi_del__(loop)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        await self._cells.of_request(scope.headers.get, scope.query_string).__rsgi__(scope, protocol)
