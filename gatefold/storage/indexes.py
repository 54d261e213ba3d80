"""Index bundles: the FAISS file, and a Parquet table of the tracks with their embeddings and metadata."""

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from gatefold.errors import BundleCorrupt
from gatefold.retrieval import CoverIndex
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.tuning import Figures
from gatefold.vectors import deserialize, kind_of, open_mapped, serialize

_VECTORS, _TRACKS = "covers.faiss", "tracks.parquet"


def publish_index(
    uri: str, index: CoverIndex, tracks: pa.Table, figures: Figures, *, version: str, lineage: Mapping[str, str]
) -> Bundle:
    """A bundle of kind "index" that states its figures.

    Args:
        tracks: the table the index was made of.
        figures: what was measured of its vectors.
    """
    sink = io.BytesIO()
    pq.write_table(tracks, sink, compression="zstd")
    details = {
        "encoder_fingerprint": index.encoder_fingerprint,
        "covers": index.ntotal,
        "tracks": tracks.num_rows,
        "figures": figures.model_dump(),
    }
    files = {_VECTORS: serialize(index.vectors), _TRACKS: sink.getvalue()}
    return publish(uri, files, kind="index", version=version, lineage=lineage, details=details)


def load_index(uri: str) -> CoverIndex:
    """From a local disk the vectors are mapped: only what searches touch is read.

    Raises: BundleNotFound, BundleCorrupt.
    """
    bundle = open_bundle(uri, "index")
    fingerprint = bundle.details.get("encoder_fingerprint")
    if not isinstance(fingerprint, str):
        raise BundleCorrupt(f"index '{uri}' does not name its encoder; build it again")
    figures = figures_of(bundle)
    tracks = pq.read_table(io.BytesIO(bundle.read(_TRACKS)))
    path = bundle.path(_VECTORS)
    vectors = deserialize(bundle.read(_VECTORS)) if path is None else open_mapped(str(path))
    if kind_of(vectors) != figures.kind:
        raise BundleCorrupt(f"index '{uri}' is of kind '{kind_of(vectors)}' and says '{figures.kind}'; build it again")
    return CoverIndex(tracks, fingerprint, vectors)


def figures_of(bundle: Bundle) -> Figures:
    """What an index bundle states. Raises: BundleCorrupt for one of an older release."""
    try:
        return Figures.model_validate(bundle.details.get("figures"))
    except ValueError as error:
        raise BundleCorrupt(
            f"index '{bundle.uri}' does not state its kind and recall; build it anew: `gatefold index`"
        ) from error
