"""FAISS indexes of vectors: flat, a graph (HNSW), inverted lists (IVF), or codes in inverted lists (IVF-PQ).

Which kind follows from size and memory. Inner products of unit vectors, so scores are cosines. The same vectors and
settings make the same index. Knows nothing of tracks, files or recall (tuning.py).

Shape legend: B = queries, T = vectors kept, D = their width.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

import faiss
import numpy as np
import numpy.typing as npt

from gatefold.config import IndexSettings
from gatefold.errors import BundleCorrupt, InvalidSettings

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
IndexKind = Literal["flat", "hnsw", "ivf", "ivfpq"]
KINDS: tuple[IndexKind, ...] = ("flat", "hnsw", "ivf", "ivfpq")
"""From the most exact and largest to the smallest."""

FLAT_BYTES = 80_000_000
"""of vectors that one core compares with a query in less than ten milliseconds"""
LINKS = 32
"""M of HNSW"""
CONSTRUCTION = 100
"""efConstruction of HNSW"""
CODES = 256
"""centroids of a sub-quantizer: one byte each"""
SAMPLE_PER_CENTROID = 64
"""vectors that a centroid is trained on"""
SEED = 1234


def choose(count: int, width: int, settings: IndexSettings) -> IndexKind:
    """The kind asked for, or by "auto" the most exact that is fast enough and fits the memory.

    Args:
        count: T, how many vectors are to be kept.
        width: D.

    Raises: InvalidSettings when it takes more than `settings.max_bytes`.
    """
    if count == 0:  # nothing to learn from
        return "flat"
    if settings.kind != "auto":
        kind: IndexKind = settings.kind
    else:
        fast = [k for k in KINDS if k != "flat" or count * width * 4 <= FLAT_BYTES]
        kind = next((k for k in fast if bytes_of(k, count, width) <= settings.max_bytes), "ivfpq")
    needed = bytes_of(kind, count, width)
    if needed > settings.max_bytes:
        raise InvalidSettings(
            f"an index of kind '{kind}' over {count:,} vectors takes {needed:,} bytes, index.max_bytes is "
            f"{settings.max_bytes:,}; raise it" + ("" if kind == "ivfpq" else " or take a smaller kind")
        )
    return kind


def bytes_of(kind: IndexKind, count: int, width: int) -> int:
    """What an index of this kind will take in memory, to a few percent.

    Args:
        count: T, how many vectors it keeps.
        width: D.
    """
    centroids = nlist_for(count) * width * 4
    if kind == "flat":
        return count * width * 4
    if kind == "hnsw":
        return count * (width * 4 + LINKS * 2 * 4 + 20)  # twice the links on the lowest level, few above it
    if kind == "ivf":
        return count * (width * 4 + 8) + centroids
    return count * (subquantizers_of(width) + 8 + width) + centroids + CODES * width * 4


def nlist_for(count: int) -> int:
    """nlist: about four times the root of the count, and enough vectors for each to be trained on."""
    return max(1, min(round(4 * math.sqrt(count)), count // 39))


def subquantizers_of(width: int) -> int:
    """m of PQ: four dimensions to a byte, or the next number above that divides the width."""
    return next(width // size for size in (4, 3, 2, 1) if width % size == 0)


def build(vectors: Vectors, kind: IndexKind) -> faiss.Index:
    """An index over these vectors, its search parameters not yet tuned.

    Args:
        vectors: float32 [T, D], unit length.

    Raises: InvalidSettings for too few vectors.
    """
    count, width = vectors.shape
    vectors = np.ascontiguousarray(vectors)
    if kind == "ivfpq" and count < CODES:
        raise InvalidSettings(f"index.kind 'ivfpq' learns its codes from at least {CODES} vectors; there are {count}")
    index = _empty(kind, count, width)
    if kind == "hnsw":
        with one_thread():  # several link in the order in which they come
            index.add(vectors)
        return index
    if kind != "flat":
        index.train(_sample(vectors, max(nlist_for(count), CODES) * SAMPLE_PER_CENTROID))
    index.add(vectors)
    return index


def _empty(kind: IndexKind, count: int, width: int) -> faiss.Index:
    if kind == "flat":
        return faiss.IndexFlatIP(width)
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(width, LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = CONSTRUCTION
        return graph
    # "np": no polysemous training, which takes most of the time and serves only another kind of search
    codes = f",PQ{subquantizers_of(width)}np,Refine(SQ8)" if kind == "ivfpq" else ",Flat"
    index = faiss.index_factory(width, f"IVF{nlist_for(count)}{codes}", faiss.METRIC_INNER_PRODUCT)
    ivf = ivf_of(index)
    for clustering in (ivf.cp, ivf.pq.cp) if kind == "ivfpq" else (ivf.cp,):
        clustering.seed, clustering.min_points_per_centroid = SEED, 1
    return index


def kind_of(index: faiss.Index) -> IndexKind:
    """Which kind of index this is. Raises: BundleCorrupt for one that `build` does not make."""
    made = {"IndexFlatIP": "flat", "IndexFlat": "flat", "IndexHNSWFlat": "hnsw", "IndexIVFFlat": "ivf",
            "IndexRefine": "ivfpq"}
    name = type(index).__name__
    if name not in made:
        raise BundleCorrupt(f"the index is a FAISS '{name}', which is none of {list(KINDS)}; build it anew")
    return cast(IndexKind, made[name])


def ivf_of(index: faiss.Index) -> faiss.IndexIVF:
    """The inverted lists of an index of kind "ivf" or "ivfpq"."""
    return faiss.downcast_index(index.base_index) if isinstance(index, faiss.IndexRefine) else index


def search_params_of(index: faiss.Index) -> dict[str, int]:
    """Search parameters of the index: efSearch, nprobe, k_factor. Empty for flat."""
    kind = kind_of(index)
    if kind == "flat":
        return {}
    if kind == "hnsw":
        return {"efSearch": int(index.hnsw.efSearch)}
    params = {"nprobe": int(ivf_of(index).nprobe)}
    return params if kind == "ivf" else params | {"k_factor": int(index.k_factor)}


def set_search_params(index: faiss.Index, params: dict[str, int]) -> None:
    """Kept in the index, also when it is saved."""
    if "efSearch" in params:
        index.hnsw.efSearch = params["efSearch"]
    if "nprobe" in params:
        ivf_of(index).nprobe = params["nprobe"]
    if "k_factor" in params:
        index.k_factor = params["k_factor"]


def search(
    index: faiss.Index, queries: Vectors, k: int, *, allowed: Mask | None = None, scale: float = 1.0
) -> tuple[Vectors, Ids]:
    """Scores and ids [B, k], best first; id -1 where an approximate search found fewer. Safe in many threads at once.

    Args:
        queries: float32 [B, D], contiguous.
        allowed: bool [T], what may be found; None for all.
        scale: factor by which the index's own search parameters are raised.
    """
    if allowed is None and scale == 1:
        return cast(tuple[Vectors, Ids], index.search(queries, k))
    bits = None if allowed is None else np.packbits(allowed, bitorder="little")
    selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
    params, kind = search_params_of(index), kind_of(index)
    if kind == "flat":
        parameters = faiss.SearchParameters(**selector)
    elif kind == "hnsw":
        ef = min(math.ceil(params["efSearch"] * scale), index.ntotal)
        parameters = faiss.SearchParametersHNSW(efSearch=ef, **selector)
    else:
        nprobe = min(math.ceil(params["nprobe"] * scale), ivf_of(index).nlist)
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, **selector)
    if kind == "ivfpq":
        parameters = faiss.IndexRefineSearchParameters(k_factor=params["k_factor"], base_index_params=parameters)
    return cast(tuple[Vectors, Ids], index.search(queries, k, params=parameters))


class GpuCopy:
    """A flat or IVF index, copied to a GPU. It finds what the index finds, without filters and with its own search
    parameters.

    One search at a time, since StandardGpuResources is not thread-safe; a search of many queries is what fills
    it.
    """

    def __init__(self, index: faiss.Index, number: int = 0) -> None:
        self._resources = faiss.StandardGpuResources()
        self._index = faiss.index_cpu_to_gpu(self._resources, number, index)
        self._lock = threading.Lock()

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        """Scores float32 and ids int64 [B, k], as `search` of this module.

        Args:
            queries: float32 [B, D], contiguous.
        """
        with self._lock:
            return cast(tuple[Vectors, Ids], self._index.search(queries, k))


def on_gpu(index: faiss.Index, device: str) -> GpuCopy | None:
    """A copy on the device where that is a GPU; None for the CPU, without faiss-gpu, or of another kind.

    Args:
        device: that was granted, as torch names it: "cpu", "cuda" or "cuda:1".
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not faiss.get_num_gpus() or kind_of(index) not in ("flat", "ivf"):
        return None
    return GpuCopy(index, int(number or 0))


def stored(index: faiss.Index) -> Vectors | None:
    """The vectors [T, D] as an index holds them, not copied, which lasts as long as the index; None where it keeps them
    in inverted lists or as codes."""
    kind = kind_of(index)
    if kind not in ("flat", "hnsw"):
        return None
    kept = faiss.downcast_index(index.storage) if kind == "hnsw" else index
    return cast(Vectors, faiss.rev_swig_ptr(kept.get_xb(), kept.ntotal * kept.d).reshape(kept.ntotal, kept.d))


def cosines(queries: Vectors, vectors: Vectors, ids: Ids) -> Vectors:
    """Inner products float32 [B, K]; -inf where an id is negative. Each is the same bits among whichever others.

    That is not so of a matrix product, nor of FAISS's searches: their rounding may depend on the shape, and equal
    vectors may come out unequal. No vector is copied, wherever it lies.

    Args:
        queries: float32 [B, D], contiguous, as are the others.
        vectors: float32 [T, D].
        ids: int64 [B, K], which vectors each query is multiplied with.
    """
    scores = np.empty(ids.shape, np.float32)
    out, queries_ptr, vectors_ptr, ids_ptr = (faiss.swig_ptr(array) for array in (scores, queries, vectors, ids))
    faiss.fvec_inner_products_by_idx(out, queries_ptr, vectors_ptr, ids_ptr, vectors.shape[1], *ids.shape)
    return scores


def merge(pieces: Sequence[tuple[Vectors, Ids]], k: int) -> tuple[Vectors, Ids]:
    """The k best of several answers to the same queries, scores and ids [B, at most k]; of equals the lower id first.

    Args:
        pieces: scores and ids, each [B, any number].
    """
    scores, ids = (np.concatenate(part, axis=1) for part in zip(*pieces, strict=True))
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def save(index: faiss.Index, path: str) -> None:
    """Into a local file, search parameters included, and not through memory."""
    faiss.write_index(index, path)


def saved_bytes(index: faiss.Index) -> int:
    """The size of what `save` writes."""
    size = 0

    def count(data: bytes) -> int:
        nonlocal size
        size += len(data)
        return len(data)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return size


def open_mapped(path: str) -> faiss.Index:
    """The index in a local file, of which only what searches touch is read. Raises: BundleCorrupt."""
    try:
        return faiss.read_index(path, faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> BundleCorrupt:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return BundleCorrupt(f"the FAISS part of the index cannot be read ({reason}); build it again")


def _sample(vectors: Vectors, size: int) -> Vectors:
    if len(vectors) <= size:
        return vectors
    chosen = np.random.default_rng(SEED).choice(len(vectors), size, replace=False)
    return vectors[np.sort(chosen)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Of FAISS, for the caller."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
