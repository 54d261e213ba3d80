"""Settings of the endpoint: its limits, who may call it from where, prices, webhooks and batches."""

from typing import Literal

from pydantic import Field, SecretStr

from gatefold.section import Section


class PriceSettings(Section):
    """Prices of one endpoint, all in one currency; what costs nothing is left out."""

    currency: str = Field("USD", pattern="^[A-Z]{3}$")
    """ISO 4217"""
    search: float = Field(0.0, ge=0)
    """of a song searched for or embedded"""
    cover: float = Field(0.0, ge=0)
    """of a new cover"""
    generation_s: float = Field(0.0, ge=0)
    """of a second of generation"""


class WebhookSettings(Section):
    """How the ends of jobs are reported to the `webhook_url` that a caller gave, or to the webhook of its key. They are
    signed with GATEFOLD_WEBHOOK_SECRET of `gatefold serve`; where that is not set, a `webhook_url` is refused, and no
    key's webhook is used."""

    allowed_hosts: list[str] = Field([])
    """receivers that may have a private, loopback or link-local address: hooks.internal, *.internal.example"""
    authorities: str | None = None
    """file of PEM certificates that receivers' certificates may lead to, beside those of the public authorities"""
    timeout_s: float = Field(15.0, gt=0)
    """seconds that one attempt may take, from looking up the name to the end of the answer"""
    retry_first_s: float = Field(5.0, gt=0)
    """seconds after the first failed attempt until the second; each later pause is four times as long"""
    retry_longest_s: float = Field(14_400.0, gt=0)
    """seconds between two attempts at most"""
    retry_for_s: float = Field(86_400.0, gt=0)
    """seconds after which a delivery is given up"""
    at_once: int = Field(128, ge=1)
    """attempts that a runner has under way at a time"""
    at_once_per_receiver: int = Field(4, ge=1)
    """of these, to one host and port: the rest is kept free of a receiver that is slow or down"""
    answer_max_bytes: int = Field(1024, ge=0)
    """bytes of a receiver's answer that are read and kept"""


class JobBatchSettings(Section):
    """Batches of calls that the endpoint takes as one file."""

    lines_max: int = Field(50_000, ge=1)
    """calls in a batch; their bytes are limited as those of an uploaded song"""
    waiting_max: int = Field(20, ge=1)
    """batches that have not ended; more are refused with 429"""
    window_s: float = Field(86_400.0, gt=0)
    """seconds after which a batch ends, with what has been answered by then"""
    jobs_at_once: int = Field(8, ge=1)
    """jobs of batches queued or running; the other lines wait"""
    calls_at_once: int = Field(4, ge=1)
    """lines that a runner has in hand at a time: searches, and jobs being created"""


class ServeSettings(Section):
    """Limits of the endpoint, and who may call it from where."""

    hosts: list[str] = Field([])
    """names that requests may call the endpoint by (`Host`), beside the loopback names and the host it listens on:
    covers.example.org, *.example.org, 0.0.0.0 for every IP address, * for anything"""
    cors_origins: list[str] = Field([])
    """origins whose pages may read its answers, as in https://example.org; * for any, none when empty"""

    upload_max_bytes: int = Field(50_000_000, gt=0)
    """bytes of an uploaded song"""
    upload_max_duration_s: float = Field(900.0, gt=0)
    """seconds of an uploaded song, whatever `audio.max_duration_s` the catalogue was read with"""
    form_fields_max: int = Field(4096, ge=16)
    """fields of a form beside the song; each value of a list is one"""
    form_fields_max_bytes: int = Field(1_048_576, ge=1024)
    """bytes of a form beside the song"""
    json_max_bytes: int = Field(2_097_152, ge=1024)
    """bytes of a JSON body; an embedding of some tens of thousands of numbers"""
    songs_queued_max: int = Field(64, ge=1)
    """uploaded songs that wait for the encoder; more are refused with 429"""
    decode_timeout_s: float = Field(60.0, gt=0)
    """seconds that decoding an uploaded song may take; then its decoder is ended and the song refused"""
    decode_memory_bytes: int = Field(1 << 30, ge=1 << 28)
    """bytes of memory that decoding an uploaded song may take"""
    uploads_max_bytes: int = Field(64_000_000, gt=0)
    """bytes of all bodies being received or handled, by what they declare; more are refused with 429 before they are
    read"""
    bodies_max: int = Field(2000, ge=1)
    """bodies being received at a time, small ones included"""
    body_timeout_s: float = Field(10.0, gt=0)
    """seconds that a client may send nothing of a body; then it is answered with 408"""
    body_min_rate: int = Field(16_000, ge=1)
    """bytes a second that a client must send on average, after the first `body_timeout_s`"""
    k_max: int = Field(1000, ge=1)
    """matches a search may ask for"""
    n_max: int = Field(8, ge=1)
    """covers a job may ask for"""
    size_max: int = Field(1024, ge=16)
    """pixels a side a job's covers, or a cover of the catalogue, may be asked for"""
    image_size_max: int = Field(3000, ge=16, le=3000)
    """pixels a side an image of a job may be fetched at; larger than it was generated, it is enlarged"""
    exports_max: int = Field(2, ge=1)
    """covers exported at once by a replica of the API; one of 3,000 pixels takes up to 300 MB meanwhile"""
    exports_queued_max: int = Field(16, ge=0)
    """covers that wait to be exported; more are refused with 429"""
    steps_max: int = Field(100, ge=1)
    """denoising steps a job may ask for"""
    jobs_max: int = Field(64, ge=1)
    """jobs queued or running; more are refused with 429"""
    database_url: SecretStr | None = None
    """where jobs are kept: postgresql://USER:PASSWORD@HOST/NAME, which more than one machine needs, or sqlite:///FILE;
    by default a SQLite file in a local workspace. GATEFOLD_DATABASE_URL of `gatefold serve` goes before it"""
    jobs_poll_s: float = Field(0.5, gt=0)
    """seconds between polls of the database: for changes of jobs that are followed, and for jobs to run"""
    job_lease_s: float = Field(30.0, gt=0)
    """seconds after which a job is run again whose runner does not renew its claim"""
    job_attempts_max: int = Field(3, ge=1)
    """times that a job's generation begins; when it is lost once more, the job has failed"""
    results_kept_s: float = Field(86_400.0, gt=0)
    """seconds after its end that a job is kept with its images"""
    image_cache_bytes: int = Field(50_000_000, ge=0)
    """bytes of pixels of new covers that the API keeps in memory"""
    wait_max_s: float = Field(60.0, ge=0)
    """seconds that `Prefer: wait` may hold a request"""
    prices: PriceSettings | None = None
    """what `GET /v1/usage` multiplies usage by; it states no cost when unset"""
    thumbnail_cache_bytes: int = Field(100_000_000, ge=0)
    """bytes of pixels of the catalogue's covers that the API keeps in memory"""
    log_format: Literal["text", "json"] = "text"
    """of the log files of Ray Serve and of every replica; json is one object a line, with the ids of request and job"""
    traces_share: float = Field(1.0, ge=0, le=1)
    """of the requests whose traces are recorded, where OTEL_EXPORTER_OTLP_ENDPOINT names a collector"""
    poll_interval_s: float = Field(2.0, gt=0)
    """seconds between polls of workspace and database: for opt-outs and keys changed elsewhere, and another release"""
    webhooks: WebhookSettings = WebhookSettings()
    batches: JobBatchSettings = JobBatchSettings()
