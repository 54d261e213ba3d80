import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatefold.errors import InvalidSettings
from serve.api.page import STATIC, Examples

HEAD = "file,title,artist,genre,licence,attribution\n"
ROW = 'a b.ogg,Song,Somebody,jazz,CC BY 4.0,"Song by Somebody, CC BY 4.0"\n'


def folder(path: Path, rows: str = HEAD + ROW) -> Path:
    (path / "ATTRIBUTION.csv").write_text(rows)
    (path / "a b.ogg").write_bytes(b"OggS")
    (path / "secret.txt").write_text("no")
    return path


def test_examples_are_offered_with_what_their_licences_ask(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    client = endpoint(examples=folder(tmp_path)).client
    assert client.get("/examples").json() == [
        {
            "file": "a b.ogg",
            "title": "Song",
            "artist": "Somebody",
            "genre": "jazz",
            "licence": "CC BY 4.0",
            "attribution": "Song by Somebody, CC BY 4.0",
            "url": "/examples/a%20b.ogg",
        }
    ]
    assert client.get("/examples/a%20b.ogg").content == b"OggS"


@pytest.mark.parametrize("name", ["secret.txt", "ATTRIBUTION.csv", "..%2Fa", "nothing.ogg"])
def test_nothing_else_of_the_folder_is_given_out(endpoint: Callable[..., Any], tmp_path: Path, name: str) -> None:
    assert endpoint(examples=folder(tmp_path)).client.get(f"/examples/{name}").status_code == 404


def test_without_a_folder_there_are_no_examples(endpoint: Callable[..., Any]) -> None:
    assert endpoint().client.get("/examples").json() == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("file,title\na b.ogg,Song\n", "lacks the column artist, genre, licence, attribution"),
        (HEAD + "gone.ogg,a,b,c,d,e\n", "'gone.ogg', which is no file of that folder"),
        (HEAD + "../a b.ogg,a,b,c,d,e\n", "which is no file of that folder"),
    ],
)
def test_a_list_that_does_not_fit_its_folder_is_refused(tmp_path: Path, rows: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        Examples(folder(tmp_path, rows))


def test_a_folder_without_a_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"ATTRIBUTION.csv"):
        Examples(tmp_path)


def test_the_page_is_served_with_a_policy_that_lets_nothing_foreign_in(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert client.get("/static/nothing.js").json()["code"] == "not_found"
    assert client.get("/static/..%2Fapi.py").status_code == 404


def test_a_link_to_covers_is_answered_with_the_page_whatever_job_it_names(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    linked = client.get("/covers/no-such-job")
    assert linked.status_code == 200
    assert linked.text == client.get("/").text
    assert linked.headers["content-security-policy"] == client.get("/").headers["content-security-policy"]
    assert client.get("/covers/a/b").status_code == 404


def test_the_page_brings_all_that_it_loads_and_its_fonts_come_with_their_licence(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    loaded = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text)
    for path in loaded:  # which grows meanwhile
        answer = client.get(path)
        assert answer.status_code == 200, path
        loaded += [one for one in re.findall(r'"(/static/[^"]+)"', answer.text) if one not in loaded]
    fonts = {path for path in loaded if path.endswith(".woff2")}
    assert {client.get(path).headers["content-type"] for path in fonts} == {"font/woff2"}
    assert {path: client.get(path).status_code for path in loaded} == dict.fromkeys(loaded, 200)
    shipped = {f"/static/{path.relative_to(STATIC).as_posix()}" for path in STATIC.rglob("*.*")}
    unused = {path for path in shipped - {*loaded} if path.endswith((".js", ".css", ".woff2"))}
    assert unused == {"/static/docs.js"}
    assert "SIL OPEN FONT LICENSE" in (STATIC / "fonts" / "Archivo-LICENSE.txt").read_text()


def test_the_description_is_shown_without_anything_from_elsewhere(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "http" not in policy
    assert "script-src" not in policy  # so that of default-src holds, which allows no inline script
    assert "default-src 'self'" in policy
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert "/docs/assets/swagger-ui-bundle.js" in loaded
    assert all(path.startswith("/") and not path.startswith("//") for path in loaded)
    assert {path: client.get(path).status_code for path in loaded} == dict.fromkeys(loaded, 200)
    for absent in ("/docs/assets/redoc.standalone.js", "/docs/assets/../__init__.py", "/redoc"):
        assert client.get(absent).status_code == 404
