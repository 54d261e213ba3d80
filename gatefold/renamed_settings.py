"""Settings that had another name: a file or an override with the old one is refused with the new one."""

from typing import Any

from gatefold.errors import InvalidSettings
from gatefold.generator_settings import TransformerSettings

RENAMED = {
    **{f"generator.{name}": f"generator.transformer.{name}" for name in TransformerSettings.model_fields},
    "evaluation.covers": "evaluation.num_generated",
    "evaluation.ranking": "evaluation.rank_candidates",
    "evaluation.sheet": "evaluation.contact_sheet_rows",
    "serve.jobs_kept": "serve.results_kept_s",
    "serve.look_every_s": "serve.poll_interval_s",
    "serve.max_finished_jobs": "serve.results_kept_s",
    "train.keep_models": "train.reuse_models",
    "train.store_share": "train.object_store_fraction",
    "user_config.searches.crossings": "user_config.searches.max_concurrent_batches",
    "user_config.searches.together": "user_config.searches.max_batch_size",
    "user_config.searches.wait_s": "user_config.searches.batch_wait_timeout_s",
}
"""old name of a setting: its name now; those of `user_config` are in serve.yaml"""


def refuse_renamed(values: dict[str, Any]) -> None:
    """Returns where no setting in `values`, by section, has an old name.

    Raises: InvalidSettings with the new name of each that has.
    """
    renamed = [old for old in RENAMED if _has(values, old)]
    if renamed:
        now = "; ".join(f"{old} is {RENAMED[old]} now" for old in renamed)
        hint = "; it needs generator.kind: transformer" if "generator.transformer." in now else ""
        raise InvalidSettings(now + hint)


def _has(values: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True
