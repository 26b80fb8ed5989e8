"""Streams of what happens to jobs: one look at the database for all who follow."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter as Counts
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from starlette.concurrency import run_in_threadpool

from evomerge.client.values import to_json
from evomerge.client.verbs import LogPart
from evomerge.errors import BusyError, EvomergeError, StoreUnreachableError
from evomerge.service.desk import FOLLOW_S, Desk, is_at_rest
from evomerge.service.http.asking import Ask
from evomerge.service.records import RecordsPool
from evomerge.store.queue.values import Head, JobEvent

HEARTBEAT_S = 10.0
MOST_FOLLOWERS = 1000
"""Of one process; who comes then is to try another replica, or later."""

_BEAT = b": \n\n"
END = b"event: end\ndata: {}\n\n"
"""Nothing more comes; a stream that ends without it was cut."""
_LOG_EVERY_S = 1.0
_T = TypeVar("_T")


class Watch:
    """Knows how far followed jobs are, and wakes who waits for more.

    Lives in one event loop.

    Args:
        pool: Of the database.
        every_s: How often is looked.
    """

    def __init__(self, pool: RecordsPool, every_s: float = FOLLOW_S) -> None:
        self._pool = pool
        self._every_s = every_s
        self._followed: Counts[int] = Counts()
        self._heads: dict[int, Head] = {}
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def is_closed(self) -> bool:
        """Whether streams are to end now."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let every stream end, without the event that says so."""
        self._closed.set()
        self._news.set()

    def admit(self) -> None:
        """Refuse one more who follows, if there are too many.

        Raises:
            BusyError: There are.
        """
        if self._followed.total() >= MOST_FOLLOWERS:
            raise BusyError("Too many follow studies here; try again in a moment.")

    def follow(self, job_id: int) -> None:
        """Begin to look at a job."""
        self._followed[job_id] += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    def leave(self, job_id: int) -> None:
        """Look at a job no more, if nobody else follows it."""
        self._followed[job_id] -= 1
        if self._followed[job_id] <= 0:
            del self._followed[job_id]
            self._heads.pop(job_id, None)

    async def next(self, job_id: int, after: int, timeout_s: float) -> bool:
        """Wait until a job has an event after a number; tell whether it has."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._last(job_id) <= after and not self.is_closed:
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _last(self, job_id: int) -> int:
        head = self._heads.get(job_id)
        return 0 if head is None else head.last

    async def _look(self) -> None:
        while self._followed and not self.is_closed:
            try:
                found = await run_in_threadpool(self._read, tuple(self._followed))
            except EvomergeError:
                found = {}  # the database is away; whoever follows waits with us
            known = {i: head for i, head in found.items() if i in self._followed}
            if any(self._heads.get(i) != head for i, head in known.items()):
                self._heads |= known
                news, self._news = self._news, asyncio.Event()
                news.set()
            await asyncio.sleep(self._every_s)

    def _read(self, ids: tuple[int, ...]) -> dict[int, Head]:
        with self._pool.lend() as records:
            return dict(records.queue.heads(ids))


class Stream:
    """What one follower is sent, as server-sent events.

    Args:
        watch: Of the event loop.
        ask: Of whoever follows.
        name: Of the job, as the verbs take it.
        job_id: Its key.
    """

    def __init__(self, watch: Watch, ask: Ask, name: str, job_id: int) -> None:
        self._watch = watch
        self._ask = ask
        self._name = name
        self._job_id = job_id

    async def events(self, after: int) -> AsyncIterator[bytes]:
        """Yield events after a number, until the job is paused or has ended."""

        def read(desk: Desk) -> tuple[bool, Sequence[JobEvent]]:
            is_still = is_at_rest(desk.job(self._name))  # before its last events
            return is_still, desk.events(self._name, after)

        with self._followed():
            yield _BEAT
            while not self._watch.is_closed:
                found = await self._patiently(read)
                if found is None:
                    yield _BEAT
                    continue
                is_still, events = found
                for event in events:
                    after = event.number
                    yield _event(to_json(event), event.kind, after)
                if events:
                    continue
                if is_still:
                    yield END
                    return
                if not await self._watch.next(self._job_id, after, HEARTBEAT_S):
                    yield _BEAT

    async def log(self, after: int) -> AsyncIterator[bytes]:
        """Yield the log from a byte on, until the job is paused or has ended."""

        def read(desk: Desk) -> tuple[bool, LogPart]:
            return is_at_rest(desk.job(self._name)), desk.log(self._name, after)

        quiet_s = 0.0
        with self._followed():
            yield _BEAT
            while not self._watch.is_closed:
                found = await self._patiently(read)
                if found is not None and found[1].text:
                    part = found[1]
                    after, quiet_s = part.next, 0.0
                    text = base64.b64encode(part.text).decode()
                    yield _event({"text": text, "next": after}, "log", after)
                    continue
                if found is not None and found[0]:
                    yield END
                    return
                await asyncio.sleep(_LOG_EVERY_S)
                quiet_s += _LOG_EVERY_S
                if quiet_s >= HEARTBEAT_S:
                    quiet_s = 0.0
                    yield _BEAT

    @contextmanager
    def _followed(self) -> Iterator[None]:
        """Follow while the block lasts; what is refused now ends the stream.

        A token that was revoked, a job that was deleted: whoever asks again is told.
        """
        self._watch.follow(self._job_id)
        try:
            with suppress(EvomergeError):
                yield
        finally:
            self._watch.leave(self._job_id)

    async def _patiently(self, do: Callable[[Desk], _T]) -> _T | None:
        """Do something at the desk; None, after a pause, if the database is away."""
        try:
            return await run_in_threadpool(self._ask, do)
        except (StoreUnreachableError, BusyError):
            await asyncio.sleep(1.0)
            return None


def _event(data: Any, kind: str, number: int) -> bytes:
    text = json.dumps(data, ensure_ascii=True)
    return f"id: {number}\nevent: {kind}\ndata: {text}\n\n".encode()
