"""Which covers may be sources: one rule for every caller."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gatefold.config import CoverSettings, OriginalitySettings
from gatefold.errors import InputError, NoSources
from gatefold.generator.local_score.denoiser import Parameters
from gatefold.generator.local_score.pipeline import CurvePoint, build_local_pipeline
from gatefold.generator.sources import ANY, SourceRule, chosen, sources_of
from gatefold.index.retrieval import CoverIndex
from gatefold.records import cover_schema
from gatefold.storage import objects, tables
from gatefold.storage.contents import optouts
from gatefold.storage.contents.releases import ReleasePart, activate, publish
from gatefold.storage.models.generators import publish_generator
from gatefold.storage.models.loaded_release import LoadedRelease, load_active_release
from gatefold.workspace import Workspace
from tests.drawn import drawn_covers
from tests.factories import indexed_tracks, publish_small_release, unit_vectors

TRACKS, WIDTH = 12, 8
OPEN = ["s0", "s1", "s3", "s4", "s6", "s7", "s9", "s10"]
"""of twelve tracks, three to an artist; every third one is closed"""


def tracks(licences: bool = True) -> pa.Table:
    table = indexed_tracks(unit_vectors(TRACKS, WIDTH), songs=unit_vectors(TRACKS, WIDTH, seed=1))
    open_to_all = [("false", None)[row // 3 % 2] if row % 3 == 2 else "true" for row in range(TRACKS)]
    table = table.append_column("may_be_source", pa.array(open_to_all))
    if licences:
        licence = [("CC0", "all rights reserved")[row % 2] for row in range(TRACKS)]
        table = table.append_column("licence", pa.array(licence))
    return table


def index() -> CoverIndex:
    return CoverIndex(tracks(), "e1")


def ids(matches: Sequence[Any]) -> set[str]:
    return {match.track.song_id for match in matches}


def test_neither_its_own_nor_its_artist_s_nor_closed_covers_are_sources_of_a_song() -> None:
    (found,) = sources_of(index(), ["s4"], TRACKS, ANY)
    assert ids(found) == set(OPEN) - {"s3", "s4"}
    assert [match.rank for match in found] == list(range(1, len(found) + 1))


def test_withdrawn_covers_are_none_and_a_column_may_be_asked_for_values() -> None:
    rule = SourceRule({"licence": ["CC0"]}, frozenset({"s6"}))
    (found,) = sources_of(index(), ["s4"], TRACKS, rule)
    assert ids(found) == {"s0", "s10"}


def test_where_a_manifest_says_nothing_every_cover_may_be_a_source() -> None:
    silent = CoverIndex(tracks().drop_columns(["may_be_source"]), "e1")
    (found,) = sources_of(silent, ["s4"], TRACKS, ANY)
    assert len(found) == TRACKS - 3


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="where 'mood': this index can be filtered by"):
        sources_of(index(), ["s4"], 3, SourceRule({"mood": ["blue"]}))


def test_picked_sources_keep_their_order_and_nothing_left_says_why() -> None:
    (found,) = sources_of(index(), ["s4"], TRACKS, ANY)
    assert [m.track.song_id for m in chosen(found, {"s9", "s0"})] == [m.track.song_id for m in found
                                                                    if m.track.song_id in ("s0", "s9")]  # fmt: skip
    with pytest.raises(NoSources, match="no cover among the 1 that source_song_ids names may be a source"):
        chosen(found, ["s5"])
    with pytest.raises(NoSources, match="no cover may be a source for this song"):
        chosen([], None)


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[[Mapping[str, list[str]]], LoadedRelease]:
    """A release with the analytic generator over these tracks, by `generator.sources`."""

    def make(rule: Mapping[str, list[str]]) -> LoadedRelease:
        workspace = Workspace(objects.resolve(str(tmp_path)))
        release = publish_small_release(workspace)
        cover = CoverSettings(size=64)
        pixels = tables.tensor_column([drawn_covers(TRACKS, 64)], cover_schema(cover).field("pixels").type)
        rows = pa.table({"song_id": [f"s{row}" for row in range(TRACKS)], "pixels": pixels})
        tables.write_part(workspace.covers(cover), "part", rows)
        point = CurvePoint(Parameters(0.6, 9, 0.05, 0.3), 0.3, 0.0)
        own = load_active_release(workspace).encoder.fingerprint
        pipeline = build_local_pipeline([point], 0, num_sources=TRACKS, size=16, encoder_fingerprint=own)
        uri = f"{workspace.generators}/local"
        bundle = publish_generator(uri, pipeline, version="local", lineage={}, details={}, cover=cover, sources=rule)
        part = ReleasePart(uri="generators/local", version="local", fingerprint=bundle.fingerprint)
        publish(workspace, release.model_copy(update={"version": "r2", "generator": part}))
        activate(workspace, "r2")
        unlimited = OriginalitySettings(max_share=1, max_region=1, max_likeness=1, attempts=1)
        made = load_active_release(workspace, originality=unlimited)
        made.index = CoverIndex(tracks(), own)
        return made

    return make


def test_a_closed_cover_is_no_source_of_any_of_a_thousand_new_ones(
    loaded: Callable[[Mapping[str, list[str]]], LoadedRelease],
) -> None:
    made = loaded({})
    for song_id in ("s0", "s5", "s7", "s11"):
        generated = made.generate(made.encode_song(song_id), seeds=range(250))
        used = {share.song_id for cover in generated.new for share in cover.generated.attribution.shares}  # type: ignore[union-attr]
        assert len(generated.new) == 250
        assert used <= set(OPEN) - {song_id}
        assert len(used) > 3


def test_the_generator_s_rule_and_opt_outs_hold_on_the_command_line_too(
    loaded: Callable[[Mapping[str, list[str]]], LoadedRelease],
) -> None:
    made = loaded({"licence": ["CC0"]})
    assert ids(made.generate(made.encode_song("s4"), seeds=[1]).sources) == {"s0", "s6", "s10"}
    optouts.withdraw(made._workspace, "s6")
    again = LoadedRelease(made._workspace, made.release)
    again.index = made.index
    assert ids(again.generate(again.encode_song("s4"), seeds=[1]).sources) == {"s0", "s10"}


def test_shares_of_every_picture_sum_to_one(loaded: Callable[[Mapping[str, list[str]]], LoadedRelease]) -> None:
    made = loaded({})
    for cover in made.generate(made.encode_song("s4"), seeds=range(8)).new:
        assert cover.generated.attribution is not None
        assert np.sum([one.share for one in cover.generated.attribution.shares]) == pytest.approx(1, abs=1e-3)
