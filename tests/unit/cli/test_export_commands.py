"""`gatefold export` and `gatefold preflight`: files, sidecar, table, exit codes, and errors that say what to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from gatefold.cli.main import app

SPOTIFY = ["--profile", "spotify", "--title", "Midnight Blue", "--artist", "Alma Ruiz"]


def call(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def answered(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A picture and its JSON, as `gatefold generate` writes them."""
    tiles = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    path = tmp_path / "song-a-7.png"
    Image.fromarray(tiles).resize((256, 256), Image.Resampling.BICUBIC).save(path)
    covers = [{"seed": 6, "refused": "too_close"}, {"seed": 7, "sources": [{"song_id": "x", "share": 0.6}]}]
    record = {"generator": "local-score", "release": {"version": "r9"}, "pictures": [path.name], "covers": covers}
    (tmp_path / "song-a.json").write_text(json.dumps(record))
    return path


def test_a_generated_cover_is_exported_with_what_lies_beside_it(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "cover.jpg"
    answer = answered(call("export", made, *SPOTIFY, "-o", out, "--json"))
    with Image.open(out) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (3000, 3000), "RGB")
    beside = json.loads((tmp_path / "out" / "cover.jpg.json").read_text())
    assert beside["sources"] == [{"song_id": "x", "share": 0.6}]
    assert (beside["seed"], beside["release"], beside["generator"]) == (7, "r9", "local-score")
    assert beside["enlarged"]["factor"] == pytest.approx(11.719)
    assert answer["file"] == str(out)
    assert all(check["passed"] for check in answer["preflight"])


def test_the_table_names_each_rule_and_what_was_found(made: Path, tmp_path: Path) -> None:
    shown = call("export", made, *SPOTIFY, "-o", tmp_path / "cover.jpg").stdout
    assert "1 to 4,000,000" in shown
    assert "3000 x 3000" in shown
    assert "✗" not in shown
    assert "enlarged 11.719 times from 256 pixels a side" in shown


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpeg"])
def test_a_plain_size_has_the_format_of_the_files_suffix(suffix: str, made: Path, tmp_path: Path) -> None:
    out = tmp_path / f"cover{suffix}"
    assert answered(call("export", made, "--size", 400, "-o", out, "--json"))["lettering"] is None
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == (suffix[1:].upper(), (400, 400))


def test_a_list_of_sources_or_another_sidecar_is_read_as_well(made: Path, tmp_path: Path) -> None:
    shares = tmp_path / "shares.json"
    shares.write_text('[{"song_id": "a", "share": 0.1}, {"song_id": "b", "share": 0.9}]')
    out = tmp_path / "one.jpg"
    plainly = ["--size", 64, "--json"]
    first = answered(call("export", made, *plainly, "-o", out, "--sources", shares, "--generator", "diffusers"))
    assert [one["song_id"] for one in first["sources"]] == ["b", "a"]
    assert first["source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    again = answered(call("export", made, *plainly, "-o", tmp_path / "two.jpg", "--sources", f"{out}.json"))
    assert again["sources"] == first["sources"]


def test_title_and_artist_can_be_metadata_alone(made: Path, tmp_path: Path) -> None:
    answer = answered(call("export", made, *SPOTIFY, "--no-letters", "-o", tmp_path / "a.jpg", "--json"))
    assert (answer["lettering"], answer["title"]) == (None, "Midnight Blue")


def test_a_cover_of_unknown_origin_is_not_exported_without_saying_what_made_it(tmp_path: Path) -> None:
    path = tmp_path / "other.png"
    Image.new("RGB", (64, 64)).save(path)
    result = call("export", path, "--size", 64, "-o", tmp_path / "a.png", "--json")
    assert result.exit_code == 2
    assert "--generator" in json.loads(result.stdout)["error"]["message"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("kind", ["local-score", "transformer", "diffusers"])
def test_a_picture_says_itself_which_kind_of_generator_made_it(
    kind: str, suffix: str, made: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere" / f"cover-7.{suffix}"  # as a client saves it, without the JSON
    answered(call("export", made, "--size", 64, "--generator", kind, "-o", alone, "--json"))
    alone.with_name(f"{alone.name}.json").unlink()
    answer = answered(call("export", alone, "--size", 64, "-o", tmp_path / "again.jpg", "--json"))
    assert answer["generator"] == kind
    assert bool(answer["sources"]) == (suffix == "png")  # which alone has a text for them


def test_a_profile_without_credentials_says_how_to_have_some(made: Path, tmp_path: Path) -> None:
    shown = call("export", made, "--size", 64, "-o", tmp_path / "a.png").stdout
    assert "export.certificate_chain" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "myspace", "-o", "a.jpg"], "there are spotify, apple"),
        (["-o", "a.jpg"], "either --profile or --size"),
        (["--profile", "apple", "--size", "9", "-o", "a.jpg"], "either --profile or --size"),
        (["--profile", "apple", "-o", "a.gif"], "must end with .jpg"),
        (["--profile", "distrokid", "-o", "a.png"], "'distrokid' takes jpeg"),
        (["--size", "4000", "-o", "a.png"], "16 to 3000"),
        (["--size", "64", "--generator", "magic", "-o", "a.png"], "local-score, transformer, diffusers"),
        (["--size", "64", "--sources", "/nowhere.json", "-o", "a.png"], "cannot be read"),
        (["--size", "64", "--sources", __file__, "-o", "a.png"], "is no JSON"),
        (["--size", "64", "--set", "export.certificate_chain=/x", "-o", "a.png"], "go together"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_can(arguments: list[str], said: str, made: Path) -> None:
    result = call("export", made, *arguments, "--json")
    assert result.exit_code == 2
    assert said in json.loads(result.stdout)["error"]["message"]


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    result = call("export", tmp_path / "a.png", "--size", 64, "-o", tmp_path / "b.png", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]["code"]) == (1, "undecodable_cover")
    assert call("export", tmp_path / "no.png", "--size", 64, "-o", tmp_path / "b.png").exit_code == 1


def test_preflight_of_any_file_exits_1_where_a_rule_is_broken(made: Path, tmp_path: Path) -> None:
    result = call("preflight", made, "--profile", "apple", "--json")
    assert result.exit_code == 1
    broken = [check["rule"] for check in json.loads(result.stdout)["preflight"] if not check["passed"]]
    assert broken == ["width in pixels", "colour profile", "IPTC digital source type"]
    answered(call("export", made, "--profile", "apple", "-o", tmp_path / "a.jpg", "--json"))
    assert answered(call("preflight", tmp_path / "a.jpg", "--profile", "apple", "--json"))["passed"]
