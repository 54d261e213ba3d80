"""A client of the HTTP API, for programs that use an endpoint without running one.

    from gatefold.client import Client

    with Client("https://covers.example") as client:
        job = client.generate("song.flac", n=4).wait(timeout_s=300)
        job.save("covers")

It needs httpx and pydantic, nothing of Ray or torch, and nothing of the rest of gatefold. `AsyncClient` is the same for
asyncio; `errors` has what can be raised, `models` what is answered.
"""

from gatefold.client.async_client import AsyncClient as AsyncClient
from gatefold.client.async_client import AsyncCoverJob as AsyncCoverJob
from gatefold.client.client import Client as Client
from gatefold.client.client import CoverJob as CoverJob
from gatefold.client.retries import RetryPolicy as RetryPolicy
