"""An audio file or its bytes to windows of log-mel: decoding, seeking, ranged reads. Begin with `spectrograms`."""
