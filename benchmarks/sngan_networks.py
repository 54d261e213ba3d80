"""The networks of the SNGAN baseline: residual generator and discriminator with spectral norm, at small widths.

Source: Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", tables 5 and 6; without the
discriminator's last block, which changes no size.

Shape legend: B = batch, Z = latent width, S = pixels a side.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as fn
from torch.nn.utils.parametrizations import spectral_norm

LATENT = 128
WIDEST, NARROWEST = 128, 16
"""channels at 4 pixels a side, halved from 16 pixels on, and the fewest"""


class Generator(nn.Module):
    """Latents [B, Z] to pictures [B, 3, S, S] in [-1, 1]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        sides = _sides(size)
        self.start = nn.Linear(LATENT, _width(4) * 4 * 4)
        self.blocks = nn.Sequential(*(_Up(_width(a), _width(b)) for a, b in pairwise(sides)))
        self.end = nn.Sequential(nn.BatchNorm2d(_width(size)), nn.ReLU(), nn.Conv2d(_width(size), 3, 3, padding=1))
        _initialise(self)

    def forward(self, latents: Tensor) -> Tensor:
        first = self.start(latents).view(len(latents), -1, 4, 4)
        pictures: Tensor = self.end(self.blocks(first))
        return pictures.float().tanh()


class _Up(nn.Module):
    """[B, in, s, s] to [B, out, 2 s, 2 s]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(width_in), nn.BatchNorm2d(width_out)])
        self.convs = nn.ModuleList(
            [nn.Conv2d(width_in, width_out, 3, padding=1), nn.Conv2d(width_out, width_out, 3, padding=1)]
        )
        self.shortcut = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.convs[0](fn.interpolate(fn.relu(self.norms[0](x)), scale_factor=2))
        inner = self.convs[1](fn.relu(self.norms[1](inner)))
        larger: Tensor = inner + fn.interpolate(self.shortcut(x), scale_factor=2)
        return larger


class Discriminator(nn.Module):
    """Pictures [B, 3, S, S] in [-1, 1] to scores [B]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = [3, *(_width(side) for side in reversed(_sides(size)[1:]))]
        downs = [_Down(a, b, first=a == 3) for a, b in pairwise(widths)]
        self.blocks = nn.ModuleList(downs)
        self.score = nn.Linear(widths[-1], 1)
        _initialise(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                spectral_norm(module)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """What every block makes of pictures [B, 3, S, S]: [B, width, side, side] each."""
        layers, x = [], pictures
        for block in self.blocks:
            x = block(x)
            layers.append(x)
        return layers

    def forward(self, pictures: Tensor) -> Tensor:
        pooled = fn.relu(self.features(pictures)[-1]).sum(dim=(2, 3))
        scores: Tensor = self.score(pooled)[:, 0]
        return scores.float()


class _Down(nn.Module):
    """[B, in, s, s] to [B, out, s / 2, s / 2]."""

    def __init__(self, width_in: int, width_out: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.convs = nn.ModuleList(
            [nn.Conv2d(width_in, width_out, 3, padding=1), nn.Conv2d(width_out, width_out, 3, padding=1)]
        )
        self.shortcut = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.convs[0](x if self.first else fn.relu(x))
        inner = self.convs[1](fn.relu(inner))
        smaller: Tensor = fn.avg_pool2d(inner, 2) + self.shortcut(fn.avg_pool2d(x, 2))
        return smaller


def _sides(size: int) -> list[int]:
    """Pixels a side from 4 to `size`, each twice the one before."""
    return [4 << level for level in range(size.bit_length() - 2)]


def _width(side: int) -> int:
    """Channels at so many pixels a side."""
    return max(NARROWEST, min(WIDEST, 8 * WIDEST // side))


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            assert part.bias is not None
            nn.init.zeros_(part.bias)


def norms_of(module: nn.Module) -> list[nn.BatchNorm2d]:
    """All batch norms in it, in order."""
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
