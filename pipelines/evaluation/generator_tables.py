"""The report of `compare_generators` as tables to be read: of all candidates, and genre by genre."""

from collections.abc import Mapping
from typing import Any

from gatefold.evaluation.scorecard import ROUNDS, MeasureTable, side_by_side
from gatefold.images.likeness import NAME
from pipelines.evaluation.generation_scores import FRECHET_ROUNDS, INDEPENDENT
from pipelines.evaluation.generator_genres import POOL, WHY_NOT_THE_SAME

_SETS = {"nearest": f"to the {POOL} nearest", "held_out": "to real covers of the genre"}


def readable_sections(details: Mapping[str, Any]) -> dict[str, MeasureTable]:
    """All tables by what stands above them, in words."""
    sections = {explanation(details): generators_section(details), **genre_sections(details)}
    return {f"{WHY_NOT_THE_SAME}\n\n{title}" if n == 1 else title: s for n, (title, s) in enumerate(sections.items())}


def generators_section(details: Mapping[str, Any]) -> MeasureTable:
    """Measures down, candidates across, each value with half its interval; "" where a measure does not apply."""
    candidates = details["candidates"]
    compared = side_by_side([candidate["name"] for candidate in candidates], [one["table"] for one in candidates])
    sizes = ["pixels a side", *(str(candidate["size"]) for candidate in candidates)]
    return MeasureTable(compared.columns, [sizes, *compared.rows])


def genre_sections(details: Mapping[str, Any]) -> dict[str, MeasureTable]:
    """By a title: Fréchet distances of each genre (down) and candidate (across), in each space and to each set."""
    rows = details["genres"]
    sections = {}
    for name, title in _SETS.items():
        for ending in next(iter(rows[0][name].values()), {}) if rows else ():
            candidates = list(rows[0][name])
            cells = [
                [row["genre"], str(row["pictures"]), *(f"{row[name][one][ending]:.1f}" for one in candidates)]
                for row in rows
            ]
            mean = [f"{sum(row[name][one][ending] for row in rows) / len(rows):.1f}" for one in candidates]
            space = NAME if ending == INDEPENDENT else "the encoder's space"
            sections[f"Fréchet distance {title}, in {space}"] = MeasureTable(
                ["genre", "pictures", *candidates], [*cells, ["mean", "", *mean]]
            )
    return sections


def explanation(details: Mapping[str, Any]) -> str:
    """What the figures are of, in a few sentences."""
    return (
        f"Covers for {details['asked']} held-out songs, the same songs and seeds for all, measured against the real "
        f"covers of {details['reference']} others; {details['artists']} artists. ±: half the 95 % interval, of "
        f"{ROUNDS:,} resamplings of whole artists ({FRECHET_ROUNDS} for Fréchet distances). Distances and ranks are in "
        f"the encoder's space, on which generators are conditioned; those that end in '{INDEPENDENT[2:]}' are in "
        f"features of {NAME}, trained on ImageNet alone: of covers alone as the network has them, of songs with covers "
        "as unit vectors beside the song's, so those two have other scales. Covers larger than the real ones are "
        f"reduced to their size. Likeness is the cosine of those features, among {details['catalogue']:,} covers; a "
        "song's own cover does not count."
    )


def as_markdown(details: Mapping[str, Any]) -> str:
    """All tables, with what they are of."""
    lines = ["# Generators compared", "", explanation(details), "", *_lines(generators_section(details))]
    if details["genres"]:
        lines += ["", "## Genre by genre", ""]
        lines += [
            "Pictures: as many generated covers, one for each held-out song of the genre, as real ones on the other "
            "side. Fewer pictures give larger distances, so compare within a row.",
            "",
            WHY_NOT_THE_SAME,
        ]
        for title, section in genre_sections(details).items():
            lines += ["", f"### {title}", "", *_lines(section)]
    return "\n".join(lines) + "\n"


def _lines(section: MeasureTable) -> list[str]:
    head = [f"| {' | '.join(section.columns)} |", f"|---|{'---:|' * (len(section.columns) - 1)}"]
    return head + [f"| {' | '.join(row)} |" for row in section.rows]
