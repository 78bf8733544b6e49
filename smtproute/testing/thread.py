"""Thread: what lives in the event loop of a thread in the background, and how others ask something of it.

A core is a class of coroutines that run in that loop. Its handle is the same for those outside, written once:

    class MailInbox(Handle[Inbox, M]):
        wait_for = Forwarded(Inbox.wait_for)

    inbox.wait_for(to="anna@example.org")             # a MailInbox[Blocking]: waits for it here
    await inbox.aio.wait_for(to="anna@example.org")   # its MailInbox[Aio]: the same as a coroutine, from any loop
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, overload

from smtproute.app import Refused
from smtproute.config.document import Mistake

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # typing's has no default before Python 3.13
else:
    from typing import TypeVar

__all__ = ["BEFORE", "Aio", "Background", "Blocking", "Forwarded", "Handle", "NotRunning", "in_background"]

BEFORE = "it is not running yet: ask it inside `with Harness(...) as smtproute:`"

_NAME = "smtproute"
_TOLD = (AssertionError, ValueError, LookupError, TimeoutError, Mistake, Refused)
"""What says all in its text, so that the way to it through the background is of no use."""
P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class NotRunning(RuntimeError):
    """It was asked before it began, or after it ended."""


class Blocking:
    """The handle whose calls wait for the result."""


class Aio:
    """The handle whose calls are coroutines."""


if TYPE_CHECKING:
    M = TypeVar("M", default=Blocking)
else:
    M = TypeVar("M")


class Background:
    """A context that one task of the background loop enters and leaves, which also hears what goes wrong in it."""

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self._context = context
        self._calls: set[asyncio.Task[Any]] = set()
        self._over = False
        self._process = os.getpid()
        """Whose thread it lives in; a process that is forked has no such thread."""
        self._life: Future[None] | None = None

    def start(self) -> None:
        """Returns when the context was entered. Raises what entering it raises."""
        if self._life is not None:
            raise RuntimeError("it runs once: make another one")
        self._leave = asyncio.Event()
        entered: Future[None] = Future()
        self._life = asyncio.run_coroutine_threadsafe(self._live(entered), _loop())
        wait([entered, self._life], return_when=FIRST_COMPLETED)
        if self._life.done():
            self._life.result()

    def stop(self) -> None:
        """Returns when the context was left. Raises what went wrong in it."""
        if self._life is not None and self._process == os.getpid():
            _loop().call_soon_threadsafe(self._leave.set)
            self._life.result()

    @property
    def fault(self) -> BaseException | None:
        """What it died of."""
        return self._life.exception() if self._life is not None and self._life.done() else None

    def block(self, work: Coroutine[Any, Any, R]) -> R:
        """Runs it in the background loop and waits for the result. Raises what it raises, NotRunning, also with what
        the context died of meanwhile."""
        __tracebackhide__ = True
        asked = self._begin(work)
        try:
            return asked.result()
        except _TOLD as failed:
            raise failed.with_traceback(None) from None  # the test's own line tells where
        except CancelledError:
            assert self._life is not None
            wait([self._life])
            raise self._gone() from self.fault
        finally:
            asked.cancel()  # where the one who waits was interrupted

    async def hop(self, work: Coroutine[Any, Any, R]) -> R:
        """The same as a coroutine, from any loop."""
        __tracebackhide__ = True
        if asyncio.get_running_loop() is _loop():
            return await work
        asked = self._begin(work)
        try:
            return await asyncio.wrap_future(asked)
        except _TOLD as failed:
            raise failed.with_traceback(None) from None
        except asyncio.CancelledError:
            if not self._over:
                raise
            assert self._life is not None
            ended = asyncio.wrap_future(self._life)
            await asyncio.wait([ended])
            raise self._gone() from ended.exception()

    def _begin(self, work: Coroutine[Any, Any, R]) -> Future[R]:
        if self._life is None or self._life.done() or self._process != os.getpid():
            work.close()
            raise self._gone() from self.fault
        if threading.current_thread().name == _NAME:
            work.close()
            raise RuntimeError("the relay's own thread cannot wait for itself: use .aio there")
        return asyncio.run_coroutine_threadsafe(self._called(work), _loop())

    async def _called(self, work: Coroutine[Any, Any, R]) -> R:
        task = asyncio.current_task()
        assert task is not None
        if self._over:
            work.close()
            raise asyncio.CancelledError
        self._calls.add(task)
        try:
            return await work
        finally:
            self._calls.discard(task)

    async def _live(self, entered: Future[None]) -> None:
        async with self._context:
            entered.set_result(None)
            try:
                await self._leave.wait()
            finally:
                self._over = True
                for task in self._calls:
                    task.cancel()

    def _gone(self) -> NotRunning:
        fault = self.fault
        if self._life is None:
            return NotRunning(BEFORE)
        if self._process != os.getpid():
            return NotRunning("it runs in the process that this one was forked from: make another one here")
        return NotRunning("it is not running any more" if fault is None else f"it died of {fault!r}")


class Handle(Generic[C, M]):
    """What those outside have of a core."""

    def __init__(self, core: C, background: Background, *, waits: bool = True) -> None:
        self._core = core
        self._background = background
        self._waits = waits

    def _ask(self, work: Coroutine[Any, Any, R]) -> Any:
        """Its result, or the coroutine of it."""
        __tracebackhide__ = True
        return self._background.block(work) if self._waits else self._background.hop(work)


class Forwarded(Generic[C, P, R]):
    """A method of a handle that is a coroutine method of its core."""

    def __init__(self, method: Callable[Concatenate[C, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method

    @classmethod
    def plain(cls, method: Callable[Concatenate[C, P], R]) -> Forwarded[C, P, R]:
        """For one that is no coroutine."""

        async def called(core: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return method(core, *args, **kwargs)

        return Forwarded(functools.update_wrapper(called, method))

    @overload
    def __get__(self, handle: None, owner: type) -> Self: ...

    @overload
    def __get__(self, handle: Handle[C, Blocking], owner: type) -> Callable[P, R]: ...

    @overload
    def __get__(self, handle: Handle[C, Aio], owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, handle: Handle[C, Any] | None, owner: type) -> Any:
        method = self._method
        if handle is None:
            return method  # for who reads its docstring

        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            __tracebackhide__ = True
            return handle._ask(method(handle._core, *args, **kwargs))

        return call


def in_background(work: Coroutine[Any, Any, R]) -> R:
    """Runs it in the background loop, and waits for its result."""
    return asyncio.run_coroutine_threadsafe(work, _loop()).result()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one loop of the process, in a thread that ends with it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=_NAME, daemon=True).start()
    return loop


os.register_at_fork(after_in_child=_loop.cache_clear)  # a thread stays behind with its parent
