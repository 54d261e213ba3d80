"""URIs of everything in a workspace. Names only: nothing here reads or writes."""

from dataclasses import dataclass

from gatefold.config import AudioSettings, CoverSettings


@dataclass(frozen=True)
class Workspace:
    """The folders of one workspace; `uri` is absolute, `file:///…` or `s3://…`, without a slash at the end."""

    uri: str

    @property
    def catalogue(self) -> str:
        """Tracks, one row a song."""
        return f"{self.uri}/catalogue"

    def spectrograms(self, audio: AudioSettings) -> str:
        """Log-mel windows, one row a window, made with these settings."""
        return f"{self.uri}/spectrograms/{audio.fingerprint()}"

    def covers(self, cover: CoverSettings) -> str:
        """Pixels, one row a song, made with these settings."""
        return f"{self.uri}/covers/{cover.fingerprint()}"

    def rejects(self, stage: str) -> str:
        """One row for each input that a stage could not use."""
        return f"{self.uri}/rejects/{stage}"

    @property
    def encoders(self) -> str:
        """Bundles of encoders, by version."""
        return f"{self.uri}/encoders"

    @property
    def generators(self) -> str:
        """Bundles of generators, by version."""
        return f"{self.uri}/generators"

    @property
    def adapters(self) -> str:
        """LoRAs of pre-trained models, each trained on the covers nearest to a song."""
        return f"{self.uri}/adapters"

    @property
    def indexes(self) -> str:
        """Bundles of indexes, by version."""
        return f"{self.uri}/indexes"

    def embeddings(self, encoder_version: str) -> str:
        """Song and cover embeddings by this encoder, one row a song."""
        return f"{self.uri}/embeddings/{encoder_version}"

    def neighbours(self, generator_version: str) -> str:
        """What a generator is trained on of each song beside its cover: the embeddings of the song and of the nearest
        covers that may be its sources."""
        return f"{self.uri}/neighbours/{generator_version}"

    @property
    def runs(self) -> str:
        """Checkpoints of training runs that are under way."""
        return f"{self.uri}/runs"

    def bundle_lease(self, kind: str, version: str) -> str:
        """Folder of the lease on a training that publishes this bundle."""
        return self.lease(f"{kind}-{version}")

    def lease(self, run: str) -> str:
        """Of one run at a time: a verb's name, or that of a training run (`<kind>-<version>`)."""
        return f"{self.runs}/{run}/lease"

    @property
    def jobs(self) -> str:
        """Of the endpoint: songs of jobs that have not ended, pictures of those that have, for a while."""
        return f"{self.uri}/jobs"

    @property
    def backfill(self) -> str:
        """What each run of `gatefold backfill` wrote, and what undoes it."""
        return f"{self.uri}/backfill"

    @property
    def releases(self) -> str:
        """Which encoder, index and generator serve together."""
        return f"{self.uri}/releases"

    @property
    def optouts(self) -> str:
        """Songs that their artists withdrew."""
        return f"{self.uri}/optouts"

    @property
    def reports(self) -> str:
        """What each stage did, as JSON."""
        return f"{self.uri}/reports"
