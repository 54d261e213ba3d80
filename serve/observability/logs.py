"""Fields of what is carried, in every record of a replica's logs.

Ray Serve writes all fields of a record where it writes JSON; the request's id, route, deployment and replica are its
own. `job_id` is in use there, for jobs of Ray: ours is `covers_job_id`.
"""

import logging
from collections.abc import Callable
from typing import Any

from serve.observability.carried import current

JSON_ENCODING = "JSON"
"""as Ray Serve's LoggingConfig calls it"""


class CarriedFields:
    """Makes log records as another factory does, with what is carried in them.

    Args:
        make: the factory before.
    """

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*arguments, **named)
        carried = current()
        if carried.job_id is not None:
            record.covers_job_id = carried.job_id
        if carried.key_prefix is not None:
            record.key_prefix = carried.key_prefix
        return record


def add_carried_fields() -> None:
    """All log records of this process have them from now on."""
    before = logging.getLogRecordFactory()
    if not isinstance(before, CarriedFields):
        logging.setLogRecordFactory(CarriedFields(before))
