import numpy as np
import torch

from gatefold.generator.local_score.palette import colour_maps, recoloured
from tests.drawn import drawn_covers

COVERS = torch.from_numpy(drawn_covers(12, 64))


def test_the_lead_keeps_its_own_colours() -> None:
    matrices, offsets = colour_maps(COVERS, 3)
    own = recoloured(COVERS[3:4], matrices[3:4], offsets[3:4])
    assert float((own - (COVERS[3:4].float() / 127.5 - 1)).abs().max()) < 1e-4


def test_every_cover_gets_the_mean_and_the_spread_of_the_lead() -> None:
    colours = COVERS.flatten(2).double() / 127.5 - 1
    matrices, offsets = colour_maps(COVERS, 3)
    mapped = matrices.double() @ colours + offsets.double()[:, :, None]
    lead = colours[3]
    for one in mapped:
        assert torch.allclose(one.mean(1), lead.mean(1), atol=1e-6)
        assert torch.allclose(torch.cov(one), torch.cov(lead), atol=1e-2)


def test_a_cover_of_one_colour_can_lead_and_can_be_led() -> None:
    flat = torch.full((1, 3, 64, 64), 40, dtype=torch.uint8)
    both = torch.cat([flat, COVERS[:1]])
    for lead in (0, 1):
        maps = colour_maps(both, lead)
        assert np.isfinite(recoloured(both, *maps).numpy()).all()


def test_values_stay_in_range() -> None:
    values = recoloured(COVERS, *colour_maps(COVERS, 0))
    assert (float(values.min()), float(values.max())) >= (-1.0, -1.0)
    assert float(values.abs().max()) <= 1.0
