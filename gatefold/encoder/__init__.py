"""Towers that embed songs and covers in one space: backbones, losses, augmentation. Begin with `towers`."""
