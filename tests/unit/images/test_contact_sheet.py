import numpy as np

from gatefold.images.contact_sheet import SheetRow, draw_contact_sheet

WHITE = np.full((20, 20, 3), 255, np.uint8)
COVER = np.full((3, 20, 20), 255, np.uint8)


def test_names_end_before_the_spectrogram_whatever_letters_they_have() -> None:
    rows = [SheetRow(letter * 40, letter * 40, WHITE, [COVER], [COVER]) for letter in "WiÉ"]
    short = [SheetRow("W", "W", WHITE, [COVER], [COVER])]
    sheet, background = (np.asarray(draw_contact_sheet(some)) for some in (rows, short))
    between = slice(226, 232)  # pixels of the column of names that stay free
    assert (sheet[60:, between] == background[60, 220]).all()
    assert (sheet[60:, 150:226] != background[60, 220]).any()


def test_a_name_that_fits_is_shown_as_it_is() -> None:
    fits, longer = (
        np.asarray(draw_contact_sheet([SheetRow(name, "", WHITE, [COVER], [COVER])])) for name in ("Tide", "Tide…")
    )
    assert (fits != longer).any()
