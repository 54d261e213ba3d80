"""The models of a release together: what they encode, find and generate, and that it can be replayed."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.config import OriginalitySettings
from gatefold.errors import BundleNotFound, InputError, NoSources, NotFound, UndecodableAudio
from gatefold.generator.interface import GenerationRequest, Sources
from gatefold.storage import objects
from gatefold.storage.contents import optouts
from gatefold.storage.models.generators import load_generator
from gatefold.storage.models.loaded_release import GeneratedForSong, LoadedRelease, load_active_release
from gatefold.workspace import Workspace
from tests.factories import ENCODER, GENERATOR, publish_small_release, unit_vectors
from tests.sounds import encoded, tone

UNLIMITED = OriginalitySettings(max_share=1, max_region=1, max_likeness=1)
"""covers of noise, 16 pixels a side, are all alike to a network of photographs"""


def pixels_of(made: GeneratedForSong) -> npt.NDArray[np.uint8]:
    return np.stack([cover.generated.pixels for cover in made.new])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedRelease:
    workspace = Workspace(objects.resolve(str(tmp_path_factory.mktemp("loaded"))))
    publish_small_release(workspace)
    return load_active_release(workspace, originality=UNLIMITED)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "a tone #1.wav"
    path.write_bytes(encoded(tone(2.0)))
    return path


def test_a_path_and_its_uri_are_encoded_alike(loaded: LoadedRelease, song: Path) -> None:
    encoded, again = loaded.encode_song(str(song)), loaded.encode_song(song.as_uri())
    assert encoded.name == "a tone #1"
    assert encoded.song_id is None
    assert encoded.embedding.shape == (ENCODER.embed_dim,)
    assert np.array_equal(encoded.embedding, again.embedding)


def test_a_song_of_the_catalogue_is_looked_up_not_encoded_again(loaded: LoadedRelease) -> None:
    encoded = loaded.encode_song("s4")
    assert (encoded.name, encoded.song_id, encoded.artist, encoded.song) == ("s4", "s4", "artist 1", None)
    assert np.array_equal(encoded.embedding, unit_vectors(12, ENCODER.embed_dim, seed=1)[4])


def test_a_file_comes_before_a_song_id(loaded: LoadedRelease, song: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(song.parent)
    song.rename("s4")
    assert loaded.encode_song("s4").song_id is None


def test_what_is_neither_file_nor_song_id_is_named(loaded: LoadedRelease) -> None:
    with pytest.raises(NotFound, match=r"'s99' is neither a file .* nor a song_id of release 'r1'"):
        loaded.encode_song("s99")


def test_a_file_that_is_no_song_is_refused_by_name(loaded: LoadedRelease, tmp_path: Path) -> None:
    (tmp_path / "words.mp3").write_text("these are words")
    with pytest.raises(UndecodableAudio, match=r"words\.mp3"):
        loaded.encode_song(str(tmp_path / "words.mp3"))


def test_a_search_ranks_the_whole_catalogue_from_the_best_down(loaded: LoadedRelease, song: Path) -> None:
    matches = loaded.search(loaded.encode_song(str(song)), 100)
    assert [match.rank for match in matches] == list(range(1, 13))
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)


def test_the_same_seeds_give_the_same_covers_and_others_do_not(loaded: LoadedRelease, song: Path) -> None:
    encoded = loaded.encode_song(str(song))
    first, again = (pixels_of(loaded.generate(encoded, seeds=[7, 8])) for _ in range(2))
    assert first.shape == (2, 3, 16, 16)
    assert np.array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_a_song_of_the_catalogue_takes_nothing_from_its_own_artist(loaded: LoadedRelease) -> None:
    for song_id in ("s0", "s4", "s11"):
        encoded = loaded.encode_song(song_id)
        neighbours = loaded.generate(encoded, seeds=[0]).sources
        assert len(neighbours) == GENERATOR.neighbours
        assert encoded.artist not in {match.track.artist for match in neighbours}


def test_the_record_has_all_that_replays_the_picture(loaded: LoadedRelease, song: Path) -> None:
    request = GenerationRequest(num_inference_steps=2, guidance_scale=1.0)
    made = loaded.generate(loaded.encode_song(str(song)), seeds=[3], request=request)
    record = json.loads(json.dumps(made.record))
    assert record["release"] == loaded.release.model_dump()
    assert record["settings"] == {"num_inference_steps": 2, "guidance_scale": 1.0}
    ids = tuple(one["song_id"] for one in record["neighbours"])
    scores = np.array([one["score"] for one in record["neighbours"]], np.float32)
    embeddings = loaded.index.cover_embeddings(ids)
    model = load_generator(f"{loaded._workspace.uri}/{loaded.release.generator.uri}").model
    replayed = model.generate(
        np.array(record["song_embedding"], np.float32),
        Sources(ids, scores, np.zeros((0, 3, 0, 0), np.uint8), embeddings),
        seeds=record["seeds"],
        request=GenerationRequest(**record["settings"]),
        on_step=lambda _done, _steps: None,
    )
    assert np.array_equal(np.stack([cover.pixels for cover in replayed]), pixels_of(made))


def test_a_withdrawn_song_is_neither_found_nor_recalled_nor_taken_from(tmp_path: Path, song: Path) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path)))
    publish_small_release(workspace)
    before = load_active_release(workspace)
    nearest = [match.track.song_id for match in before.search(before.encode_song(str(song)), 12)]
    optouts.withdraw(workspace, nearest[0])
    after = load_active_release(workspace)
    encoded = after.encode_song(str(song))
    assert [match.track.song_id for match in after.search(encoded, 5)] == nearest[1:6]
    taken = [match.track.song_id for match in after.generate(encoded, seeds=[0]).sources]
    assert taken == nearest[1 : 1 + GENERATOR.neighbours]
    with pytest.raises(NotFound, match="was withdrawn"):
        after.encode_song(nearest[0])


def test_a_workspace_without_a_release_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="gatefold release"):
        load_active_release(Workspace(objects.resolve(str(tmp_path))))


def test_sources_may_be_picked_among_those_that_are_allowed(loaded: LoadedRelease, song: Path) -> None:
    encoded = loaded.encode_song(str(song))
    allowed = [match.track.song_id for match in loaded.generate(encoded, seeds=[0]).sources]
    picked = loaded.generate(encoded, seeds=[0], source_song_ids=allowed[1:])
    assert [match.track.song_id for match in picked.sources] == allowed[1:]
    with pytest.raises(NoSources, match="among the 1 that source_song_ids names"):
        loaded.generate(encoded, seeds=[0], source_song_ids=["nobody"])


def test_what_the_generator_does_not_know_is_refused_by_name(loaded: LoadedRelease, song: Path) -> None:
    with pytest.raises(InputError, match=r"novelty = 0\.5: a generator of kind 'transformer' has no novelty"):
        loaded.generate(loaded.encode_song(str(song)), seeds=[0], request=GenerationRequest(novelty=0.5))


def test_a_release_computes_on_the_device_it_is_given_and_looks_for_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path)))
    publish_small_release(workspace)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert load_active_release(workspace).encoder.logit_scale.device.type == "cpu"
    assert load_active_release(workspace, device="meta").encoder.logit_scale.device.type == "meta"
