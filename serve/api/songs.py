"""Routes of songs and tracks: search, embed, look up, fetch a cover; and of the active release."""

import asyncio
import base64
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.responses import Response

from gatefold.config import ServeSettings
from gatefold.errors import InputError
from gatefold.images.pixels import encode_picture
from gatefold.index.interface import IndexedTrack
from serve.access.key_ring import KeyRing
from serve.access.usage import UsageCounter
from serve.active_release import ActiveRelease
from serve.api import contracts, requests
from serve.api.contents import Content, add_content_route, content_response, is_known, not_modified, tag_of
from serve.api.contracts import (
    THUMBNAIL_SIZE,
    EmbeddingResult,
    LimitsView,
    ReleaseView,
    SearchResult,
    SongView,
    TrackView,
    part_view,
)
from serve.api.limits import SIZE_MIN, limits_view, marked
from serve.api.thumbnails import Thumbnails
from serve.interfaces import Query, ReleaseServices, ServedRelease, SongEmbedding, SongQuery
from serve.middleware.uploads import read_body

LISTS = frozenset({"exclude_artists", "exclude_song_ids", "genres"})
PictureSize = Annotated[int, fastapi.Query(ge=SIZE_MIN, json_schema_extra=marked(maximum="size_max"))]
"""pixels a side of a picture, whose upper limit `check_size` holds"""
COVER_MAX_AGE_S = 3600
"""seconds a browser may keep a cover of the catalogue before it asks again"""


class TrackIds(PathConvertor):
    """Ids of tracks in a path, slashes and all; what ends in `/cover` is the route of a cover, whatever the method."""

    regex = ".*(?<!/cover)"


register_url_convertor("track_id", TrackIds())


class SongRoutes:
    """Handlers of the routes; thin, around the services of the active release."""

    def __init__(
        self, active: ActiveRelease, limits: ServeSettings, thumbnails: Thumbnails, ring: KeyRing, usage: UsageCounter
    ) -> None:
        self._active = active
        self._limits = limits
        self._thumbnails = thumbnails
        self._ring, self._usage = ring, usage

    def router(self) -> APIRouter:
        """The routes of searches, embeddings and tracks."""
        router = APIRouter(tags=["songs"])
        either = body_of(requests.SearchUpload, requests.SearchQuery)
        router.add_api_route("/searches", self.search, methods=["POST"], openapi_extra=either)
        router.add_api_route("/embeddings", self.embed, methods=["POST"], openapi_extra=body_of(contracts.Body))
        add_content_route(router, "/tracks/{song_id:path}/cover", self.cover, "image/jpeg")
        router.add_api_route("/tracks/{song_id:track_id}", self.track)
        router.add_api_route("/tracks/{song_id:track_id}", self.withdraw, methods=["DELETE"], status_code=204)
        router.add_api_route("/limits", self.limits)
        router.add_api_route("/releases/current", self.release)
        return router

    async def search(self, request: Request) -> SearchResult:
        """The covers nearest to an uploaded song, to a song of the catalogue, or to an embedding."""
        body = await read_body(request, self._limits, lists=LISTS)
        with self._active.current() as serving:
            if body.song is None:
                fields = requests.parse(requests.SearchQuery, body.fields, self._limits, strict=True)
                found = await search_for(serving, query_of(fields, serving.release))
            else:
                upload = requests.parse(requests.SearchUpload, body.fields, self._limits)
                encoded = await serving.encoder.encode_song(body.song.data, body.song.name, upload.spectrogram)
                query = Query(encoded.embedding, serving.release.encoder.fingerprint, upload.k, upload.filters)
                found = await search_for(serving, query, encoded)
        self._usage.count_search(request.state.caller.id)
        return found

    async def embed(self, request: Request) -> EmbeddingResult:
        """The embedding of an uploaded song."""
        body = await read_body(request, self._limits)
        if body.song is None:
            raise InputError("there is no song; upload one as multipart/form-data, in the field 'song'")
        if body.fields:
            raise InputError(f"field '{next(iter(body.fields))[:80]}' is not known here; send the field 'song' alone")
        with self._active.current() as serving:
            encoded = await serving.encoder.encode_song(body.song.data, body.song.name, False)
        self._usage.count_search(request.state.caller.id)
        return EmbeddingResult(
            release=serving.release.version,
            encoder=serving.release.encoder.fingerprint,
            embedding=encoded.embedding.tolist(),
            song=song_view(encoded),
        )

    async def track(self, song_id: str) -> TrackView:
        """A track of the catalogue."""
        known = await self._known(song_id)
        return TrackView(track=known.track, cover_url=contracts.cover_url(song_id) if known.cover_uri else None)

    async def withdraw(self, song_id: str) -> None:
        """Withdraws a track for its artist, for good: no search finds it any more, and no new cover is made of it."""
        if song_id not in self._active.optouts.song_ids:
            await self._known(song_id)
            await self._active.optouts.withdraw(song_id)

    async def cover(
        self, request: Request, song_id: str, size: PictureSize = THUMBNAIL_SIZE
    ) -> Response:
        """A track's cover: JPEG, square."""
        check_size(size, self._limits)
        with self._active.current() as serving:
            known = await serving.retriever.track(song_id)
            pixels = await self._thumbnails.read(known, size, serving.generator)
        kept = "private" if self._ring.required else "public"
        headers, tag = {"Cache-Control": f"{kept}, max-age={COVER_MAX_AGE_S}"}, tag_of(pixels.tobytes(), size)
        if is_known(request, tag):
            return not_modified(tag, headers)
        data = await asyncio.to_thread(encode_picture, pixels, size, "jpeg")
        return content_response(request, Content(data, "image/jpeg"), tag, headers)

    async def release(self) -> ReleaseView:
        """What is being served."""
        with self._active.current() as serving:
            encoder, index, generator = await asyncio.gather(
                serving.encoder.describe(), serving.retriever.describe(), serving.generator.describe()
            )
        release = serving.release
        return ReleaseView(
            version=release.version,
            encoder=part_view(release.encoder),
            index=part_view(release.index),
            generator=part_view(release.generator),
            covers=index.covers,
            generator_kind=generator.kind,
            novelty=generator.novelty,
            audio=encoder.audio,
        )

    async def limits(self) -> LimitsView:
        """What a request may ask for at most."""
        return limits_view(self._limits)

    async def _known(self, song_id: str) -> IndexedTrack:
        with self._active.current() as serving:
            return await serving.retriever.track(song_id)


async def search_for(
    serving: ReleaseServices, query: Query | SongQuery, encoded: SongEmbedding | None = None
) -> SearchResult:
    """The covers nearest to a song.

    Args:
        encoded: what was decoded of an uploaded song.

    Raises: InputError; UnknownTrack; Unavailable.
    """
    matches = await serving.retriever.search(query)
    return SearchResult(
        release=serving.release.version,
        encoder=serving.release.encoder.fingerprint,
        song=song_view(encoded) if encoded else None,
        matches=contracts.match_views(matches),
    )


def query_of(fields: requests.SearchQuery, release: ServedRelease) -> Query | SongQuery:
    """The search for a song of the catalogue, or for an embedding. Raises: InputError for one of another encoder."""
    own = release.encoder.fingerprint
    if fields.song_id is not None:
        return SongQuery(fields.song_id, own, fields.k, fields.filters)
    return Query(fields.unit_embedding(own), own, fields.k, fields.filters)


def song_view(encoded: SongEmbedding) -> SongView:
    """What was encoded of an uploaded song."""
    picture = encoded.spectrogram_png
    return SongView(
        duration_s=encoded.duration_s,
        window_starts_s=encoded.window_starts_s,
        spectrogram=None if picture is None else f"data:image/png;base64,{base64.b64encode(picture).decode()}",
    )


def check_size(size: int, limits: ServeSettings) -> None:
    """Raises: InputError for a picture larger than the endpoint gives out."""
    if size > limits.size_max:
        raise InputError(f"size = {size}: at most {limits.size_max} pixels a side (serve.size_max)")


def body_of(form: type[contracts.Body], query: type[contracts.Body] | None = None) -> dict[str, Any]:
    """The OpenAPI description of a body that is a multipart song with these fields or, where there is one, a JSON
    object."""
    schema = form.model_json_schema()
    song_limits = marked(
        maxLength="upload_max_bytes", x_max_duration_s="upload_max_duration_s", x_max_decoding_s="decode_timeout_s"
    )
    song = {"type": "string", "format": "binary", **song_limits}
    schema["properties"] = {"song": song, **schema.get("properties", {})}
    schema["required"] = ["song"]
    schema |= marked(x_max_fields="form_fields_max", x_max_fields_bytes="form_fields_max_bytes")
    received = marked(
        x_max_queued="songs_queued_max", x_max_uploads_bytes="uploads_max_bytes", x_max_bodies="bodies_max",
        x_body_timeout_s="body_timeout_s", x_body_min_rate="body_min_rate",
    )  # fmt: skip
    content = {"multipart/form-data": {"schema": schema, **received}}
    if query is not None:
        content["application/json"] = {"schema": query.model_json_schema() | marked(x_max_bytes="json_max_bytes")}
    return {"requestBody": {"required": True, "content": content}}
