"""What the tests of batches share: a database of each kind, and a batch in it."""

from tests.unit.serve.jobs.conftest import opened as opened
