"""Which scopes each operation of the API needs: the one table of it. What is not in it needs `admin`."""

from serve.access.callers import Scope

_ANY: frozenset[Scope] = frozenset({"search", "generate"})
_SEARCH: frozenset[Scope] = frozenset({"search"})
_GENERATE: frozenset[Scope] = frozenset({"generate"})
_ADMIN: frozenset[Scope] = frozenset({"admin"})
_NEEDED: dict[str, frozenset[Scope]] = {
    "POST /v1/searches": _SEARCH,
    "POST /v1/embeddings": _SEARCH,
    "GET /v1/tracks/{song_id}": _ANY,
    "GET /v1/tracks/{song_id}/cover": _ANY,
    "DELETE /v1/tracks/{song_id}": _ADMIN,
    "POST /v1/covers": _GENERATE,
    "GET /v1/covers": _GENERATE,
    "GET /v1/covers/{job_id}": _GENERATE,
    "DELETE /v1/covers/{job_id}": _GENERATE,
    "GET /v1/covers/{job_id}/events": _GENERATE,
    "GET /v1/covers/{job_id}/images/{index}": _GENERATE,
    "POST /v1/covers/{job_id}/images/{index}/export": _GENERATE,
    "GET /v1/covers/{job_id}/images/{index}/sources": _GENERATE,
    "GET /v1/covers/{job_id}/images/{index}/sources.png": _GENERATE,
    "GET /v1/covers/{job_id}/manifest.json": _GENERATE,
    "GET /v1/covers/{job_id}/deliveries": _GENERATE,
    "POST /v1/covers/{job_id}/deliveries/{number}/redeliver": _GENERATE,
    "POST /v1/batches": _ANY,  # each of its lines what the single call needs
    "GET /v1/batches/{batch_id}": _ANY,
    "DELETE /v1/batches/{batch_id}": _ANY,
    "GET /v1/batches/{batch_id}/output": _ANY,
    "GET /v1/batches/{batch_id}/errors": _ANY,
    "GET /v1/limits": _ANY,
    "GET /v1/releases/current": _ANY,
    "GET /v1/usage": _ANY,
    "GET /v1/audit": _ADMIN,
}


def needed_scopes(operation: str) -> frozenset[Scope]:
    """The scopes one of which a caller needs; `admin` is not named where another is enough, though it always is.

    Args:
        operation: as `GET /v1/covers/{job_id}`; HEAD counts as GET.
    """
    method, _, path = operation.partition(" ")
    return _NEEDED.get(f"GET {path}" if method == "HEAD" else operation, _ADMIN)


def is_audited(operation: str) -> bool:
    """Whether it needs `admin`, and so is written down."""
    return needed_scopes(operation) == _ADMIN
