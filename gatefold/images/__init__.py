"""Bytes of a picture to pixels and back; contact sheets; features of covers, pre-trained. Begin with `pixels`."""
