"""Deployments that take up what their caller carries. Knows nothing of Ray."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, TypeVar

from serve.observability.carried import Carried, carrying
from serve.observability.tracing import span

Deployed = TypeVar("Deployed", bound=type)


def observed(deployment: Deployed) -> Deployed:
    """The same class, whose asynchronous public methods also take `carried`: they work under it, in a span named after
    class and method. Called without it they are as they were."""
    for name, method in list(vars(deployment).items()):
        if name.startswith("_"):
            continue
        if inspect.isasyncgenfunction(method):
            setattr(deployment, name, _observed_generator(f"{deployment.__name__}.{name}", method))
        elif inspect.iscoroutinefunction(method):
            setattr(deployment, name, _observed_method(f"{deployment.__name__}.{name}", method))
    return deployment


def _observed_method(name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def run(self: Any, *arguments: Any, carried: Carried | None = None, **named: Any) -> Any:
        if carried is None:
            return await method(self, *arguments, **named)
        with carrying(carried), span(name):
            return await method(self, *arguments, **named)

    return run


def _observed_generator(
    name: str, method: Callable[..., AsyncGenerator[Any, None]]
) -> Callable[..., AsyncGenerator[Any, None]]:
    @wraps(method)
    async def run(
        self: Any, *arguments: Any, carried: Carried | None = None, **named: Any
    ) -> AsyncGenerator[Any, None]:
        if carried is None:
            async with aclosing(method(self, *arguments, **named)) as items:
                async for item in items:
                    yield item
            return
        with carrying(carried), span(name):
            async with aclosing(method(self, *arguments, **named)) as items:
                async for item in items:
                    yield item

    return run
