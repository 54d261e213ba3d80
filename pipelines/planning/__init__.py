"""Plans: time and cost of a catalogue, estimated from a sample. Begin with `plan`."""
