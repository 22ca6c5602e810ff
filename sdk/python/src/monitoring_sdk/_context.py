"""`monitored_context`: one run around a block, a function, a coroutine or a generator."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Generator, Mapping
from types import TracebackType
from typing import Any, Callable, TypeVar, cast

from monitoring_sdk import _runs, _state
from monitoring_sdk._runs import Run

F = TypeVar("F", bound=Callable[..., Any])


def monitored_context(name: str, metadata: Mapping[str, Any] | None = None) -> MonitoredContext:
    """A run called `name`: use it by `with`, by `async with`, or as a decorator (each call is then a run).

    `metadata`: `lot`, `wafer`, `tool`, `chamber`, `recipe`, `step`, `product` and `operator` are entities, as is what stands in a
    mapping under `entities`; everything in the run has them. All else becomes attributes of the run's start and end.

    Raises InvalidEventError for a wrong name or metadata; NotInitializedError when the block starts before `initialize`.
    """
    return MonitoredContext(name, metadata)


def current_run() -> Run | None:
    """The run that the calling code is in, if any."""
    link = _state.active.get()
    return link[0] if link is not None else None


def carry(function: F) -> F:
    """`function`, to be called in another thread as if from here: inside the run that is active now.

    A new thread starts without a run. `pool.submit(carry(measure), wafer)` takes the present one along.
    """
    link = _state.active.get()

    @functools.wraps(function)
    def carried(*args: Any, **kwargs: Any) -> Any:
        before = _state.active.get()
        _state.active.set(link)
        try:
            return function(*args, **kwargs)
        finally:
            _state.active.set(before)

    return cast(F, carried)


class MonitoredContext:
    """What `monitored_context` returns."""

    def __init__(self, name: str, metadata: Mapping[str, Any] | None) -> None:
        self._name = name
        self._entities, self._attributes = _runs.split(name, metadata)
        self._run: Run | None = None

    def _start(self) -> Run:
        return _runs.start(self._name, self._entities, self._attributes)

    # ------------------------------------------------------------------------------------------------------------- a block

    def __enter__(self) -> Run:
        if self._run is not None:
            message = f"this monitored_context({self._name!r}) is in use: make a new one for each block"
            raise RuntimeError(message)
        self._run = self._start()
        return self._run.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.deactivate()
            run.end(error)

    async def __aenter__(self) -> Run:
        return self.__enter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None) -> None:
        self.__exit__(kind, error, stack)

    # --------------------------------------------------------------------------------------------------------- a decorator

    def __call__(self, function: F) -> F:
        """Make each call of `function` a run; of a generator, the run lasts from the first value asked for to the end."""
        if inspect.iscoroutinefunction(function):
            decorated: Callable[..., Any] = self._around_coroutine(function)
        elif inspect.isasyncgenfunction(function):
            decorated = self._around_async_generator(function)
        elif inspect.isgeneratorfunction(function):
            decorated = self._around_generator(function)
        else:
            decorated = self._around_function(function)
        return cast(F, functools.wraps(function)(decorated))

    def _again(self) -> MonitoredContext:
        other = object.__new__(MonitoredContext)
        other._name, other._entities, other._attributes, other._run = self._name, self._entities, self._attributes, None
        return other

    def _around_function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def in_run(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return function(*args, **kwargs)

        return in_run

    def _around_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def in_run(*args: Any, **kwargs: Any) -> Any:
            with self._again():
                return await function(*args, **kwargs)

        return in_run

    def _around_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def in_run(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            run = self._start()
            try:
                result = yield from _Resumed(run, function(*args, **kwargs))
            except BaseException as error:
                run.end(error)
                raise
            run.end(None)
            return result

        return in_run

    def _around_async_generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def in_run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            run = self._start()
            generator = function(*args, **kwargs)
            try:
                resume, value = generator.asend, None
                while True:
                    try:
                        with run:
                            item = await resume(value)
                    except StopAsyncIteration:
                        break
                    try:
                        value = yield item
                        resume = generator.asend
                    except GeneratorExit:
                        with run:
                            await generator.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001 - it belongs to the generator, which decides
                        resume, value = generator.athrow, error
            except BaseException as error:
                run.end(error)
                raise
            run.end(None)

        return in_run


class _Resumed(Generator[Any, Any, Any]):
    """A generator whose code runs inside a run, while whoever asks for its values does not."""

    def __init__(self, run: Run, generator: Generator[Any, Any, Any]) -> None:
        self._run = run
        self._generator = generator

    def send(self, value: Any) -> Any:
        with self._run:
            return self._generator.send(value)

    def throw(self, *error: Any) -> Any:
        with self._run:
            return self._generator.throw(*error)

    def close(self) -> None:
        with self._run:
            self._generator.close()
