"""Every error that gatefold raises, in three families that decide what happens next.

`InputError` and `NotFound` are the caller's: in batch they become a row in the rejects table, online a 4xx.
`Unavailable` is the world's and passes: it is retried. `Corrupt` is ours and does not pass: it stops the job, online it
is a 500.

A message says what, which value, and what is allowed or what to do. Every argument goes to `Exception.__init__` by
position, because that is what survives pickling between Ray processes; no attribute is called `cause`, which Ray uses
itself.
"""

from typing import ClassVar


class GatefoldError(Exception):
    """A fault of gatefold's own that nobody foresaw; an endpoint's log has it under the request's `X-Request-Id`.

    Root of the tree. Each kind has a stable `code`, the HTTP `status` it maps to, and whether trying again can help.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *rest: object) -> None:
        super().__init__(message, *rest)
        self.message = message

    def __str__(self) -> str:
        return self.message


# ---- the caller's fault ---------------------------------------------------------------------------------------------


class InputError(GatefoldError):
    """A field is missing, unknown or out of range, or an input cannot be used; the detail says what is allowed."""

    code = "invalid_input"
    status = 422


class InvalidSettings(InputError):
    """A setting that is unknown, out of range, or does not fit another."""

    code = "invalid_settings"
    status = 400


class InvalidManifest(InputError):
    """A manifest that lacks a column, repeats an id, or cannot be read."""

    code = "invalid_manifest"


class EmptyFile(InputError):
    """A file of no bytes."""

    code = "empty_file"


class UndecodableAudio(InputError):
    """A file that is no audio, or of a kind that no decoder knows."""

    code = "undecodable_audio"
    status = 415


class TruncatedAudio(InputError):
    """Audio that ends before its headers say."""

    code = "truncated_audio"


class SilentAudio(InputError):
    """Audio without a sound in it."""

    code = "silent_audio"


class AudioTooShort(InputError):
    """Audio that lasts less than the least allowed."""

    code = "audio_too_short"


class AudioTooLong(InputError):
    """Audio that lasts longer than allowed."""

    code = "audio_too_long"
    status = 413


class DecodingTimeout(InputError):
    """Decoding hung or crawled, and was ended."""

    code = "decoding_timeout"


class DecoderCrashed(InputError):
    """Decoding took its process with it."""

    code = "decoder_crashed"


class UndecodableCover(InputError):
    """A picture that cannot be decoded."""

    code = "undecodable_cover"
    status = 415


class TooLarge(InputError):
    """More bytes or pixels than the limit allows."""

    code = "too_large"
    status = 413


class UnsupportedText(InputError):
    """A title or an artist's name with a character that no font has."""

    code = "unsupported_text"


class PreflightFailed(InputError):
    """A file that breaks a rule of its store; the detail names each."""

    code = "preflight_failed"


class RecallTooLow(InputError):
    """An index finds less of what is nearest than was asked for."""

    code = "recall_too_low"


class TooFewSongs(InputError):
    """Too few songs with both a spectrogram and a cover to train on, or to measure by."""

    code = "too_few_songs"


class NoSources(InputError):
    """No cover is left that a song's new covers may be made from."""

    code = "no_sources"


class RequestTimeout(InputError):
    """A body that comes too slowly (`serve.body_timeout_s`, `serve.body_min_rate`)."""

    code = "request_timeout"
    status = 408


class Unauthorized(InputError):
    """A request without a key, or with one that is unknown, expired or revoked."""

    code = "unauthorized"
    status = 401


class Forbidden(InputError):
    """An API key without the scope that this needs."""

    code = "forbidden"
    status = 403


class IdempotencyConflict(InputError):
    """An Idempotency-Key was sent again with another request."""

    code = "idempotency_conflict"
    status = 409


# ---- what was asked for is not there --------------------------------------------------------------------------------


class NotFound(GatefoldError):
    """What was asked for is not there."""

    code = "not_found"
    status = 404


class ObjectNotFound(NotFound):
    """No object of this uri is in the storage."""

    code = "object_not_found"


class UnknownTrack(NotFound):
    """No song of this id is in the catalogue or the index, or it was withdrawn."""

    code = "unknown_track"


class UnknownJob(NotFound):
    """No job of this id is the caller's, or is kept any more."""

    code = "unknown_job"


class UnknownKey(NotFound):
    """No API key has this prefix."""

    code = "unknown_key"


class BundleNotFound(NotFound):
    """No bundle or release of this version is in the workspace."""

    code = "bundle_not_found"


class StageMissing(NotFound):
    """A stage was asked to run before the one it reads from."""

    code = "stage_missing"


class TooManyRejects(GatefoldError):
    """The job is done (or was stopped), but the share of rejected inputs is above the operator's limit: exit code 3."""

    code = "too_many_rejects"


# ---- the world's fault, and it passes -------------------------------------------------------------------------------


class Unavailable(GatefoldError):
    """Something that is needed does not answer now; trying again can help."""

    code = "unavailable"
    status = 503
    retryable = True


class StorageUnavailable(Unavailable):
    """The storage did not answer, or not as it should."""

    code = "storage_unavailable"


class DatabaseUnavailable(Unavailable):
    """The database of jobs cannot be reached, or is locked by another process."""

    code = "database_unavailable"


class RunnerLost(GatefoldError):
    """A job whose runner was lost, time after time, while it generated."""

    code = "runner_lost"


class ObjectChanged(StorageUnavailable):
    """An object was replaced in the middle of being read; from its beginning it can be read again."""

    code = "object_changed"


class RunInProgress(Unavailable):
    """Another driver works on the same stage of the same workspace."""

    code = "run_in_progress"


class IndexNotReady(Unavailable):
    """The endpoint has no release loaded yet."""

    code = "index_not_ready"


class Overloaded(Unavailable):
    """A queue is full: jobs, songs, or bodies under way.

    `retry_after_s` becomes the Retry-After header.
    """

    code = "overloaded"
    status = 429

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """An API key sent more requests than it may in a minute."""

    code = "rate_limited"


class TooManyJobs(Overloaded):
    """An API key has as many jobs under way as it may."""

    code = "too_many_jobs"


class QuotaExceeded(Overloaded):
    """An API key has had as many covers as it may in a month."""

    code = "quota_exceeded"


# ---- our fault, and it does not pass --------------------------------------------------------------------------------


class Corrupt(GatefoldError):
    """Something of our own is damaged or does not fit; trying again does not help."""

    code = "corrupt"


class BundleCorrupt(Corrupt):
    """A bundle whose files are not those that were published."""

    code = "bundle_corrupt"


class SchemaMismatch(Corrupt):
    """A table whose columns are not those that this version writes."""

    code = "schema_mismatch"


class WrongModel(Corrupt):
    """Vectors of one encoder met an index (or a generator) of another."""

    code = "wrong_model"


class StorageDenied(Corrupt):
    """The account may not do this: every other object would fail alike, so the job stops."""

    code = "storage_denied"


class LeaseLost(Corrupt):
    """A lease or claim that was taken over, cancelled or replaced meanwhile; nothing more may be written."""

    code = "lease_lost"
