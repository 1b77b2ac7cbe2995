"""Carries out one run after another on one product: waits for quiet, warms up, measures, counts what was stored."""

import contextlib
import http.client
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import machine, senders, wrk
from bench.audit import BACKLOG_MAX, Auditor, Counts, Expected, Finding, complaints
from bench.installation import Installation
from bench.results import CannotRunError, Result, Traffic, of_answers
from local.product import HOST

_WARM_SECONDS = 2
# After a run; after a warm-up, whose little backlog disturbs less than waiting costs.
_QUIET_SECONDS = 12.0
_QUIET_SECONDS_WARM = 4.0
# A purge is due every minute.
_PURGE_SECONDS_MAX = 90.0
_ROUNDS_MAX = 15
_STEADY = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What the command line chose."""

    seconds: int
    sources: int
    workspaces: int
    keys: int


@dataclass(slots=True)
class Bench:
    """The product under test and everything that was found wrong with it."""

    product: Installation
    folder: Path
    options: Options
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    """Events answered with a 2xx that stand for something new, in all."""
    _auditor: Auditor = field(init=False)
    _counts: Counts = field(init=False)
    _files: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._auditor = Auditor(self.product.admin_database_url)
        self._counts = self._auditor.count()
        self._files["demo"] = senders.demo_sender(self.product, self.folder)

    def measure(self, traffic: Traffic, seconds: int, *, is_warm: bool = False) -> Result:
        """Warm up, wait for quiet, measure, and count what has been stored."""
        if self._status_of(traffic.path) in (404, 405):
            raise CannotRunError(f"{traffic.path} is not there yet")
        if not is_warm:
            self.warm_up(traffic)
        had_backlog = self._auditor.backlog() > BACKLOG_MAX
        with machine.Meter(self.product.roots()) as meter:
            answers = self.send_unaudited(traffic, seconds)
        self.check_counts(traffic, answers)
        if not answers.accepted:
            raise CannotRunError(f"of {answers.requests:,} requests none was accepted")
        result = of_answers(traffic, answers, meter.use)
        return replace(result, note="it began before the usage outbox was folded") if had_backlog else result

    def warm_up(self, traffic: Traffic) -> None:
        """Until two rounds are alike: each key has then been proven in each process."""
        rounds: list[wrk.Answers] = []
        for _ in range(_ROUNDS_MAX if traffic.by != "demo" else 1):
            rounds.append(self.send_unaudited(traffic, _WARM_SECONDS))
            if len(rounds) > 1 and rounds[-1].accepted < _STEADY * rounds[-2].accepted:
                break
        self.check_counts(traffic, *rounds, quiet_seconds=_QUIET_SECONDS_WARM)

    def send(self, traffic: Traffic, seconds: float) -> wrk.Answers:
        """Send, wait until the product is idle, and audit."""
        answers = self.send_unaudited(traffic, seconds)
        self.check_counts(traffic, answers)
        return answers

    def send_unaudited(self, traffic: Traffic, seconds: float) -> wrk.Answers:
        """Send, for a caller who measures nothing else meanwhile and audits later."""
        load = wrk.Load(
            script=traffic.script,
            connections=traffic.connections,
            senders=self.file_of(traffic.by),
            path=traffic.path,
            argument=traffic.argument,
            run=traffic.run,
        )
        return wrk.send(self.product.url, load, seconds)

    def audit(self, title: str, expected: Expected, quiet_seconds: float = _QUIET_SECONDS) -> None:
        """Hold what was added since the last time against what was answered."""
        self._wait_until_idle(quiet_seconds)
        counts = self._auditor.count()
        found = complaints(counts - self._counts, expected)
        self.problems += [f"{title}: {problem}" for problem in found]
        self._counts = counts

    def audit_everything(self) -> Finding:
        """Everything that was found wrong, the whole of the tables included."""
        twice = self._auditor.stored_twice()
        if twice:
            self.problems.append(f"{twice} events are stored more than once")
        return Finding(self.answered, tuple(self.problems))

    def file_of(self, who: str) -> Path:
        """The file of those who send; made when it is first asked for."""
        if who not in self._files:
            say("making sources and keys … ")
            chosen = self.options
            files = senders.make_senders(
                self.product, self.folder, sources=chosen.sources, keys=chosen.keys, workspaces=chosen.workspaces
            )
            self._files["sources"], self._files["keys"] = files
        return self._files[who]

    def recount(self) -> None:
        """Count the stored rows as expected: a run has filled the tables on purpose."""
        self._wait_until_idle(_QUIET_SECONDS)
        self._counts = self._auditor.count()

    def wait_for_the_purge(self, records: int) -> None:
        """Until the worker has begun to purge the `records` that have expired."""
        deadline = time.monotonic() + _PURGE_SECONDS_MAX
        while self._auditor.expired() >= records and time.monotonic() < deadline:
            time.sleep(0.1)

    def unpurged(self) -> int:
        """Records that wait for the purge."""
        return self._auditor.expired()

    def forget_usage(self) -> None:
        """Delete the usage of events that were not sent through the product, before the worker folds it."""
        self._auditor.forget_usage()

    def close(self) -> None:
        self._auditor.close()

    def check_counts(self, traffic: Traffic, *rounds: wrk.Answers, quiet_seconds: float = _QUIET_SECONDS) -> None:
        """Audit what some rounds of `traffic` have brought."""
        if traffic.may_store is None:
            # Requests without an answer may have been stored: one a connection, and those that came too late.
            unanswered = sum(traffic.connections + answers.timeouts + answers.broken for answers in rounds)
            accepted = sum(answers.accepted for answers in rounds)
            new, more = (number * traffic.events_per_request for number in (accepted, unanswered))
        else:
            new, more = 0, traffic.may_store
        expected = Expected(answered=new, unanswered_max=more, with_records=traffic.with_records)
        self.answered += expected.answered
        self.audit(traffic.title, expected, quiet_seconds)

    def _wait_until_idle(self, seconds: float) -> None:
        """Until the worker has folded the outbox and the machine is idle, or the time is up."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._auditor.backlog() > BACKLOG_MAX:
            time.sleep(0.2)
        machine.wait_until_idle(deadline - time.monotonic())

    def _status_of(self, path: str) -> int:
        connection = http.client.HTTPConnection(HOST, self.product.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
            return connection.getresponse().status


def say(text: str) -> None:
    """Print progress to standard error; standard output gets the tables alone."""
    print(text, end="", file=sys.stderr, flush=True)
