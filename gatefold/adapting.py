"""The verb that adapts a pre-trained model to a song. Beside `gatefold.cli`, which puts it on the command line."""

from functools import partial
from typing import Annotated

import typer

from gatefold.session import Session


def adapt(
    context: typer.Context,
    song: Annotated[str, typer.Argument(help="A sound file, its s3:// URI, or a song_id of the catalogue.")],
) -> None:
    """Train a LoRA of the pre-trained model on the covers nearest to a song; resumes.

    A request for covers of generator.kind diffusers can name it by its version.

    Example: gatefold adapt song.mp3 --set generator.diffusers.model=/models/stable-diffusion-v1-5
    """
    session: Session = context.obj.open()
    session.connect()
    from pipelines.adapt import adapt as train

    report = session.watch("adapt", partial(train, session.settings, song, session.workspace))
    covers = report.details["covers"]
    session.terminal.result(
        report.model_dump(),
        f"adapter  {report.details['version']}",
        f"covers   {len(covers) if isinstance(covers, list) else 0}",
    )
