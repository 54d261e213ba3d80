import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.config import ServeSettings
from gatefold.errors import InputError, NotFound, StorageUnavailable
from gatefold.generator.interface import Generated, GenerationRequest
from gatefold.generator.originality import Likeness, NewCover
from gatefold.index.interface import Filters
from gatefold.records import Match, Track
from gatefold.storage.models.loaded_release import EncodedSong, GeneratedForSong
from serve.batches.batch_file import FileCounts, check_file, run_file

LIMITS = ServeSettings()


@dataclass
class Named:
    version: str = "r1"
    fingerprint: str = "e1"


@dataclass
class Loaded:
    """Knows the songs "t0", "t1", ...; fails where the store does not answer any more."""

    release: Named = field(default_factory=Named)
    encoder: Named = field(default_factory=Named)
    made: list[tuple[str, list[int]]] = field(default_factory=list)
    answers: int = 1000

    def encode_song_id(self, song_id: str) -> EncodedSong:
        if not song_id.startswith("t"):
            raise NotFound(f"'{song_id}' is not a song_id of release 'r1'")
        return EncodedSong(song_id, np.array([1, 0], np.float32), song_id=song_id)

    def search(self, _: EncodedSong, k: int, filters: Filters) -> list[Match]:
        found = [song_id for song_id in ("t0", "t1", "t2") if song_id not in filters.exclude_song_ids][:k]
        return [Match(rank=i + 1, score=0.5, track=Track(song_id=one)) for i, one in enumerate(found)]

    def generate(
        self, encoded: EncodedSong, *, seeds: Sequence[int], request: GenerationRequest,
        source_song_ids: Collection[str] | None,
    ) -> GeneratedForSong:
        assert source_song_ids is None
        if not self.answers:
            raise StorageUnavailable("the store does not answer")
        self.answers -= 1
        self.made.append((encoded.name, list(seeds)))
        covers: list[Any] = [
            NewCover(Generated(seed, np.zeros((3, 8, 8), np.uint8), None, None), 1, Likeness(0.5, "t0"))
            for seed in seeds
        ]
        return GeneratedForSong(covers, [], {"seeds": list(seeds), "size": request.size})


def line(custom_id: str, url: str = "/v1/covers", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"song_id": "t3", **body}}


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def answered(path: Path, folder: Path, loaded: Loaded) -> FileCounts:
    return run_file(path, folder, loaded, LIMITS, lambda record, made: f"{record['size']} {made.seed}".encode())  # type: ignore[arg-type]


def test_every_line_is_answered_and_what_fails_is_written_elsewhere(tmp_path: Path) -> None:
    file = written(
        tmp_path / "batch.jsonl", line("a/b", n=2, seed=7, size=64), line("c", song_id="nobody"),
        line("d", "/v1/searches", k=2, exclude_song_ids=["t0"]),
    )  # fmt: skip
    assert check_file(file, LIMITS) == 3
    assert answered(file, tmp_path / "out", Loaded()) == FileCounts(0, 2, 1)
    covers, search = read(tmp_path / "out" / "output.jsonl")
    assert (covers["line"], covers["custom_id"], covers["response"]["status_code"]) == (1, "a/b", 200)
    assert covers["response"]["body"]["pictures"] == ["a%2Fb-7.png", "a%2Fb-8.png"]
    assert (tmp_path / "out" / "a%2Fb-8.png").read_text() == "64 8"
    assert [one["track"]["song_id"] for one in search["response"]["body"]["matches"]] == ["t1", "t2"]
    (wrong,) = read(tmp_path / "out" / "errors.jsonl")
    assert (wrong["custom_id"], wrong["response"]["status_code"]) == ("c", 404)


def test_a_run_that_broke_off_continues_and_does_nothing_twice(tmp_path: Path) -> None:
    file, out = written(tmp_path / "b", *(line(f"c{i}", n=1, seed=i) for i in range(4))), tmp_path / "out"
    loaded = Loaded(answers=2)
    with pytest.raises(StorageUnavailable):
        answered(file, out, loaded)
    with (out / "output.jsonl").open("a") as output:
        output.write('{"custom_id": "c2", "resp')  # as a kill would leave it
    loaded.answers = 9
    assert answered(file, out, loaded) == FileCounts(2, 2, 0)
    assert [seeds for _, seeds in loaded.made] == [[0], [1], [2], [3]]
    assert [one["custom_id"] for one in read(out / "output.jsonl")] == ["c0", "c1", "c2", "c3"]
    assert answered(file, out, loaded) == FileCounts(4, 0, 0)


def test_what_failed_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    out, loaded = tmp_path / "out", Loaded()
    answered(written(tmp_path / "b", line("a", song_id="nobody")), out, loaded)
    assert answered(written(tmp_path / "b", line("a", n=1)), out, loaded) == FileCounts(0, 1, 0)
    assert read(out / "errors.jsonl") == []


def test_a_file_with_wrong_lines_is_refused_with_their_numbers(tmp_path: Path) -> None:
    file = written(tmp_path / "b", line("a"), line("a"), line("b", n=99))
    with pytest.raises(InputError, match=r"2 lines are wrong, .*: line 2: custom_id .*; line 3: n = 99"):
        check_file(file, LIMITS)
    with pytest.raises(InputError, match="has no lines"):
        check_file(written(tmp_path / "c"), LIMITS)
    with pytest.raises(InputError, match="cannot be read"):
        check_file(tmp_path / "absent", LIMITS)


def test_names_of_pictures_are_as_different_as_their_ids(tmp_path: Path) -> None:
    ids = ["é" * 60 + "a", "é" * 60 + "b", "..", "."]
    answered(written(tmp_path / "b", *(line(one, n=1, seed=1) for one in ids)), tmp_path / "out", Loaded())
    names = [one["response"]["body"]["pictures"][0] for one in read(tmp_path / "out" / "output.jsonl")]
    assert len(set(names)) == 4
    assert all(not name.startswith(".") for name in names)
