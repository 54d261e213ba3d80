"""The demo's workspace: in the workspace that all verbs share, unless that holds songs of the user's own."""

import shlex

from gatefold.cli.session import readable
from gatefold.config import Settings
from gatefold.errors import InputError
from gatefold.storage import objects
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.nearby_workspaces import is_workspace
from gatefold.workspace import Workspace


def place_of_songs(workspace: Workspace) -> str:
    """Raises: InputError for a workspace with songs of the user's own, which must not be mixed with the demo's."""
    songs_uri = objects.join(workspace.uri, "songs")
    standing = catalogues.current(workspace)
    if standing is None and not is_workspace(workspace.uri):
        return songs_uri
    if standing is None or objects.parent(standing.source) != songs_uri:
        held = f"the catalogue of '{readable(standing.source)}'" if standing else "a release without a catalogue"
        raise InputError(
            f"the workspace '{readable(workspace.uri)}' holds {held}, and the demo would take its place; "
            "give the demo another: gatefold --workspace workspace-demo demo"
        )
    return songs_uri


def workspace_option(workspace: Workspace) -> str:
    """What names a workspace on the command line, unless it is the default."""
    default = objects.resolve(Settings().workspace)
    return "" if workspace.uri == default else f"--workspace {shlex.quote(readable(workspace.uri))} "
