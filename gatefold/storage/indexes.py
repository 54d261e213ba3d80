"""Index bundles: the FAISS file, and a Parquet table of the tracks with their embeddings and metadata."""

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from gatefold.errors import BundleCorrupt
from gatefold.retrieval import CoverIndex, deserialize
from gatefold.storage.bundles import Bundle, open_bundle, publish

_VECTORS, _TRACKS = "covers.faiss", "tracks.parquet"


def publish_index(uri: str, index: CoverIndex, tracks: pa.Table, *, version: str, lineage: Mapping[str, str]) -> Bundle:
    """A bundle of kind "index". `tracks` is the table the index was made of."""
    sink = io.BytesIO()
    pq.write_table(tracks, sink, compression="zstd")
    details = {"encoder_fingerprint": index.encoder_fingerprint, "covers": index.ntotal, "tracks": tracks.num_rows}
    files = {_VECTORS: index.serialized(), _TRACKS: sink.getvalue()}
    return publish(uri, files, kind="index", version=version, lineage=lineage, details=details)


def load_index(uri: str) -> CoverIndex:
    """Raises: BundleNotFound, BundleCorrupt."""
    bundle = open_bundle(uri, "index")
    fingerprint = bundle.details.get("encoder_fingerprint")
    if not isinstance(fingerprint, str):
        raise BundleCorrupt(f"index '{uri}' does not name its encoder; build it again")
    tracks = pq.read_table(io.BytesIO(bundle.read(_TRACKS)))
    return CoverIndex(tracks, fingerprint, deserialize(bundle.read(_VECTORS)))
