"""Title and artist on a picture: exactly as given, legible when small, or an error that says why not."""

import unicodedata

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gatefold.errors import InputError, UnsupportedText
from gatefold.export.fonts import FONTS, SANS, SERIF, WIDE, font_for, has_shaping
from gatefold.export.layouts import CAPITAL_MIN, LAYOUTS, LEGIBLE_SIDE
from gatefold.export.lettering import CONTRAST_MIN, Lettered, letter

GREY = Image.new("RGB", (600, 600), (120, 118, 121))


def busy(size: int = 600) -> Image.Image:
    rng = np.random.default_rng(2)
    tiles = Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8))
    return tiles.resize((size, size), Image.Resampling.NEAREST)


def text_of(lettered: Lettered) -> tuple[str, str]:
    return " ".join(lettered.lines[0]), " ".join(lettered.lines[1])


@pytest.mark.parametrize("layout", ["auto", *LAYOUTS])
@pytest.mark.parametrize(
    ("title", "artist"),
    [
        ("Midnight", "Alma Ruiz"),
        ("ÆØÅ ñandú ß", "Þórr"),
        ("Жизнь", "Кино"),
        ("Ελλάδα", "Ρίτσος"),
        ("iPhone eBay", "k.d."),
    ],
)
def test_title_and_artist_are_spelled_exactly_as_given(layout: str, title: str, artist: str) -> None:
    assert text_of(letter(busy(), title, artist, layout)) == (title, artist)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_picture_holds_the_very_glyphs_of_the_text(layout: str) -> None:
    """Drawn once more, by Pillow alone, on an empty picture; where the letters are must be the same places."""
    done = letter(Image.new("RGB", (600, 600)), "Midnight", None, layout)
    letters = np.asarray(done.picture.convert("L")) > 128
    rows, columns = np.flatnonzero(letters.any(1)), np.flatnonzero(letters.any(0))
    found = letters[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    font = next(font for font in FONTS if font.name == done.font)
    errors = []
    for size in range(20, 200):
        drawn = Image.new("L", (800, 400))
        ImageDraw.Draw(drawn).text((20, 300), "Midnight", fill=255, font=font.at(size), anchor="ls")
        other = np.asarray(drawn) > 128
        box = Image.fromarray(other).getbbox()
        assert box is not None
        cut = other[box[1] : box[3], box[0] : box[2]]
        if abs(cut.shape[1] - found.shape[1]) < 4 and abs(cut.shape[0] - found.shape[0]) < 4:
            height, width = min(cut.shape[0], found.shape[0]), min(cut.shape[1], found.shape[1])
            errors.append(float((cut[:height, :width] != found[:height, :width]).mean()))
    assert min(errors) < 0.05


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("behind", ["busy", "grey", "gradient"])
def test_text_is_legible_at_64_pixels(layout: str, behind: str) -> None:
    gradient = Image.fromarray(np.tile(np.linspace(0, 255, 600).astype(np.uint8)[:, None, None], (1, 600, 3)))
    picture = {"busy": busy(), "grey": GREY, "gradient": gradient}[behind]
    done = letter(picture, "Midnight", "Alma Ruiz", layout)
    assert done.contrast >= CONTRAST_MIN
    small = np.asarray(done.picture.convert("L").resize((64, 64), Image.Resampling.LANCZOS), np.float64)
    alone = letter(Image.new("RGB", (600, 600)), "Midnight", "Alma Ruiz", layout)  # white on black: the letters alone
    assert capital_height(np.asarray(alone.picture.convert("L"))) * 64 / 600 >= CAPITAL_MIN * 0.9
    assert small.std() > 5


def capital_height(letters: np.ndarray) -> float:
    """Pixels of the lowest line of letters, in which there is a capital."""
    rows = np.asarray((letters > 128).any(1))
    last = int(np.flatnonzero(rows)[-1])
    first = last
    while rows[first - 1]:
        first -= 1
    return last - first + 1


def test_a_calm_place_is_chosen_before_a_busy_one() -> None:
    picture = busy()
    picture.paste((30, 30, 60), (0, 300, 600, 600))
    done = letter(picture, "Calm", "Below", "corner")
    changed = np.abs(np.asarray(done.picture, int) - np.asarray(picture, int)).sum(2) > 30
    assert changed[:300].sum() == 0
    assert changed[300:].sum() > 500
    assert done.veil == 0


def test_the_picture_that_was_given_stays_as_it_was() -> None:
    picture = busy()
    before = picture.tobytes()
    letter(picture, "Title", "Artist")
    assert picture.tobytes() == before


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (64, 64)])
def test_every_shape_and_size_has_room_for_text(size: tuple[int, int]) -> None:
    done = letter(Image.new("RGB", size, "navy"), "Midnight", "Alma")
    assert done.picture.size == size
    assert np.asarray(done.picture).std() > 5


@pytest.mark.parametrize("given", [("Midnight", None), (None, "Alma")])
def test_title_or_artist_may_stand_alone(given: tuple[str | None, str | None]) -> None:
    assert text_of(letter(GREY, *given)) == (given[0] or "", given[1] or "")


def test_characters_that_no_font_has_are_named() -> None:
    with pytest.raises(UnsupportedText, match=r"no font has '世' \(U\+4E16\), '界' \(U\+754C\); the fonts are Manrope"):
        letter(GREY, "世界", "Alma")


@pytest.mark.parametrize(
    ("title", "code"),
    [("a\nb", "000A"), ("a\tb", "0009"), ("a\u202eb", "202E"), ("a\u2028b", "2028"), ("a\u200bb", "200B")],
)
def test_characters_that_cannot_be_written_are_named(title: str, code: str) -> None:
    with pytest.raises(UnsupportedText, match=rf"U\+{code}"):
        letter(GREY, title, None)


@pytest.mark.parametrize("title", ["", " a", "a ", "a  b"])
def test_spaces_that_would_be_lost_are_refused(title: str) -> None:
    with pytest.raises(InputError, match="as in the release"):
        letter(GREY, title, None)


@pytest.mark.parametrize("blank", ["\u00a0", "\u2800", "\u2003", "\u00a0 \u2800"])
def test_a_title_or_an_artist_that_leaves_no_mark_is_refused(blank: str) -> None:
    with pytest.raises(InputError, match=r"title = .* leave no mark"):
        letter(GREY, blank, "Alma")
    with pytest.raises(InputError, match=r"artist = .* leave no mark"):
        letter(GREY, "Alma", blank)
    letter(GREY, f"Alma{blank[0]}Blau" if blank[0] != "\u2003" else "Alma", None)


def test_text_too_long_to_be_legible_is_an_error_that_says_so() -> None:
    with pytest.raises(InputError, match="too long to be legible at 64 pixels"):
        letter(GREY, "word " * 60 + "end", "Alma")
    with pytest.raises(InputError, match="too long"):
        letter(GREY, "Donaudampfschifffahrtsgesellschaft", None)


def test_an_unknown_layout_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="there are auto, corner, band, poster"):
        letter(GREY, "a", "b", "circle")
    with pytest.raises(InputError, match="neither title nor artist"):
        letter(GREY, None, None)


def test_right_to_left_scripts_are_set_from_right_to_left() -> None:
    """The first letter of the text lies to the right of the last: alef, wide open, before a narrow vav."""
    assert has_shaping(), "the tests need FriBiDi (Debian: libfribidi0)"
    done = letter(Image.new("RGB", (600, 600)), "ווווש", None, "band")
    letters = np.asarray(done.picture.convert("L")) > 128
    columns = np.flatnonzero(letters.any(0))
    ink = letters[:, columns[0] : columns[-1] + 1].any(0)
    gaps = np.flatnonzero(~ink)
    assert done.font == WIDE.name
    assert gaps[0] > ink.size / 4  # shin, the last letter and the wide one, stands leftmost


def test_a_combining_mark_makes_the_same_picture_as_the_composed_letter() -> None:
    decomposed = unicodedata.normalize("NFD", "Müller é")
    assert decomposed != "Müller é"
    first, second = letter(GREY, "Müller é", None, "band"), letter(GREY, decomposed, None, "band")
    difference = np.abs(np.asarray(first.picture, int) - np.asarray(second.picture, int))
    assert (difference > 64).mean() < 0.002


@pytest.mark.parametrize("title", ["שלום", "سلام", "x\u0302"])
def test_without_shaping_scripts_that_need_it_are_an_error_naming_what_to_install(title: str) -> None:
    with pytest.raises(UnsupportedText, match="libfribidi0"):
        letter(GREY, title, None, shaping=False)
    assert text_of(letter(GREY, "Plain", None, shaping=False)) == ("Plain", "")


def test_the_first_font_that_has_all_characters_is_taken() -> None:
    assert font_for(["Alma"], SERIF, shaping=True) is SERIF
    assert font_for(["ქართული"], SERIF, shaping=True) is WIDE
    assert font_for(["Alma"], SANS, shaping=True) is SANS


def test_a_capital_is_as_high_as_is_needed_at_64_pixels() -> None:
    assert LEGIBLE_SIDE == 64
    assert CAPITAL_MIN >= 4
