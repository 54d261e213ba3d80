"""The applications that serve/serve.yaml names: the API, and the release behind it, which another can take over from.

The release is looked up once, here, and pinned: a replica that starts later loads what its siblings loaded, whatever
has been released meanwhile. Resources, replicas, batching and autoscaling are not said here but in the YAML.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application, Deployment

from gatefold.config import ExportSettings, GeneratorSettings, OriginalitySettings, ServeSettings
from gatefold.export.credentials import Signer
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from serve.api.application import Api
from serve.api.exports import ExportOptions
from serve.deployments import replica
from serve.deployments.encoder import SongEncoder
from serve.deployments.generator import CoverGenerator
from serve.deployments.release import ReleaseRoot
from serve.deployments.retriever import bind_retriever
from serve.deployments.runner import Runner
from serve.interfaces import ServedBundle, ServedRelease
from serve.jobs.database import database_url
from serve.observability.tracing import TraceArgs
from serve.webhooks.sender import WebhookTrust

CONSTRUCTOR_RETRIES = 2
"""times a replica that does not start is tried again before its deployment fails; the YAML has no option for it"""


class ReleaseArgs(BaseModel):
    """`args:` of a release in serve/serve.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workspace: str
    """an absolute path, `file:///…` or `s3://bucket/prefix`"""
    release: str | None = None
    """version to serve; the workspace's current one when unset"""
    shards: dict[str, Any] = {}
    """options of Ray Serve for each CoverShard deployment of an index that has several"""
    limits: ServeSettings = ServeSettings()
    originality: OriginalitySettings = OriginalitySettings()
    cache_bytes: int = GeneratorSettings().cache_bytes
    """of source pixels that a replica of the generator keeps"""
    endpoint_url: str | None = None
    """of an S3 store that is not AWS; the environment's AWS_ENDPOINT_URL when unset"""
    traces: TraceArgs | None = None
    """where spans go; nowhere when unset"""


class SignerArgs(BaseModel):
    """What exported covers are signed with. `gatefold serve` reads it from where `export.*` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    certificate_chain: str
    """PEM"""
    private_key: str = Field(repr=False)
    """PEM"""
    algorithm: str = ExportSettings().signing_algorithm
    time_stamp_url: str | None = None


class WebhookArgs(BaseModel):
    """What webhooks are signed with. `gatefold serve` reads it from GATEFOLD_WEBHOOK_SECRET and from where
    `serve.webhooks.authorities` says."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    secrets: tuple[str, ...] = Field(min_length=1, repr=False)
    """`whsec_...`; a receiver that knows any of them accepts what is delivered"""
    authorities: str | None = None
    """PEM"""


class ApiArgs(BaseModel):
    """`args:` of the API in serve/serve.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    workspace: str
    """as for the release"""
    limits: ServeSettings = ServeSettings()
    examples: str | None = None
    """folder of songs the page offers to try, with an ATTRIBUTION.csv; none when unset"""
    endpoint_url: str | None = None
    """as for the release"""
    traces: TraceArgs | None = None
    """as for the release"""
    api_key_hashes: tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...] = ()
    """SHA-256 of each API key, in hexadecimal; the endpoint is open where there is none"""
    database_url: str | None = Field(None, repr=False)
    """of the database of jobs, as `serve.database_url`; a SQLite file in a local workspace when unset"""
    credit: str = ExportSettings().credit
    """of every image, in its metadata"""
    signer: SignerArgs | None = None
    """exported covers are not signed when unset"""
    webhooks: WebhookArgs | None = None
    """a request with a `webhook_url` is refused when unset"""


def export_options(args: ApiArgs) -> ExportOptions:
    """Credit and signer of exported covers, as the API takes them."""
    return ExportOptions(args.credit, None if args.signer is None else Signer(**args.signer.model_dump()))


def build(args: ApiArgs) -> Application:
    """The API, and what runs its jobs, for these arguments. Ray reads the annotation and validates `args:` against it.

    Raises: InvalidSettings where jobs need a database and none is named.
    """
    _check(args, ApiArgs)
    workspace = objects.resolve(args.workspace)
    of_jobs: dict[str, Any] = {
        "limits": args.limits,
        "endpoint_url": args.endpoint_url,
        "traces": args.traces,
        "database_url": database_url(workspace, args.database_url),
    }
    trust = None if args.webhooks is None else WebhookTrust(**args.webhooks.model_dump())
    runner = _deployment(Runner).bind(workspace, webhooks=trust, **of_jobs)
    return _deployment(serve.ingress()(Api)).bind(
        workspace,
        runner,
        examples=args.examples,
        keys=args.api_key_hashes,
        exports=export_options(args),
        webhooks=trust is not None,
        **of_jobs,
    )


def build_release(args: ReleaseArgs) -> Application:
    """The release for these arguments. Raises: BundleNotFound where the workspace has no such release."""
    _check(args, ReleaseArgs)
    replica.use_endpoint(args.endpoint_url)
    workspace = Workspace(objects.resolve(args.workspace))
    release = releases.current(workspace) if args.release is None else releases.get(workspace, args.release)

    def uri(part: releases.ReleasePart) -> str:
        return objects.join(workspace.uri, part.uri)

    encoder = _deployment(SongEncoder).options(max_queued_requests=args.limits.songs_queued_max)
    encoder = encoder.bind(uri(release.encoder), args.limits, args.endpoint_url, args.traces)
    retriever = bind_retriever(uri(release.index), args.endpoint_url, _deployment, args.shards, args.traces)
    generator = _deployment(CoverGenerator).bind(
        uri(release.generator),
        workspace.uri,
        release.encoder.fingerprint,
        encoder,
        retriever,
        args.originality,
        args.cache_bytes,
        args.endpoint_url,
        args.traces,
    )
    return _deployment(ReleaseRoot).bind(_served(release), encoder, retriever, generator)


def _check(args: object, wanted: type[BaseModel]) -> None:
    if not isinstance(args, wanted):  # what Ray passes when it cannot read the annotation
        raise TypeError(f"{wanted.__name__} are wanted, not {type(args).__name__}; is the annotation still a class?")


def _deployment(cls: type) -> Deployment:
    return serve.deployment(cls, max_constructor_retry_count=CONSTRUCTOR_RETRIES)


def _served(release: releases.Release) -> ServedRelease:
    bundles = (release.encoder, release.index, release.generator)
    return ServedRelease(release.version, *(ServedBundle(one.version, one.fingerprint) for one in bundles))
