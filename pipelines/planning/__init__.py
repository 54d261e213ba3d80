"""What a catalogue would take in time and money, measured on a sample. Begin with `plan`."""
