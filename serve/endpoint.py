"""The running endpoint, which polls its workspace: what is activated there is served here, without a pause.

A release is started beside the one that serves. When all of it runs, the API hands new requests to it, and the other
is stopped once it has finished what it had begun. A release that does not start changes nothing. What an application
needs is not known here, but in the file that describes it (serve.deploy).
"""

import copy
import logging
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from gatefold.errors import GatefoldError, Unavailable
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from serve.api.application import Api
from serve.deployments.runner import Runner
from serve.ray_private import deploy_applications, described_applications, initialise

logger = logging.getLogger(__name__)

START_WITHIN_S = 600.0
"""seconds; models may come from far away"""
ANSWER_WITHIN_S = 60.0
"""seconds from running to answering"""
_PREFIX = "release-"
FOLLOWING = (Api.__name__, Runner.__name__)
"""deployments that go over to the active release"""
_NOTHING = ("", "")
_RAY_ERRORS = (RayError, RayServeException, TimeoutError)
_POLL_S = 0.3

Application = dict[str, Any]
"""As the file describes it."""


class Endpoint:
    """The API, and behind it one release, or two while the second takes over.

    Args:
        config: as in serve/serve.yaml, every `args:` filled in; the second application stands for any release.
        pinned: the release to serve whatever the workspace says; None to follow it.
        url: where it answers.
    """

    def __init__(self, config: dict[str, Any], workspace: Workspace, pinned: str | None, url: str) -> None:
        self.url = url
        self._config = config
        self._api, self._template = config["applications"]
        self._workspace = workspace
        self._pinned = pinned
        self._running: dict[str, Application] = {}  # by version
        self._serving: str | None = None
        self._refused = _NOTHING  # a version that did not start, and why
        self._reported = ""

    def start(self) -> None:
        """Serves what the workspace has activated, in the place of what this Ray serves already.

        Raises: BundleNotFound where nothing is active; GatefoldError, Unavailable where it does not start.
        """
        self._running = _running_releases()
        in_use = self._in_use() if self._running else []
        self._serving = next((version for version in in_use[:1] if version in self._running), None)
        self._serve(self._wanted())
        self._reported = self._poll()

    def follow(self) -> str | None:
        """Polls the workspace once, and serves what it has activated. What has changed, in a sentence, or None."""
        try:
            news = self._poll()
        except _RAY_ERRORS as error:  # what was begun is begun again at the next poll
            logger.warning("Ray Serve does not answer: %s", error)
            news = "Ray Serve does not answer at present; what it serves goes on"
        before, self._reported = self._reported, news
        return None if news == before else news

    def _poll(self) -> str:
        try:
            wanted = self._wanted()
        except GatefoldError as error:
            return f"{error}; release {self._serving} goes on"
        self._stop_unused(wanted)
        if wanted not in (self._serving, self._refused[0]):
            try:
                self._serve(wanted)
            except GatefoldError as error:
                self._refused = (wanted, error.message)
        if wanted != self._serving:
            return f"release {wanted} cannot serve: {self._refused[1]}; release {self._serving} goes on"
        self._refused = _NOTHING
        return f"release {wanted} serves now"

    def _wanted(self) -> str:
        return releases.current(self._workspace).version if self._pinned is None else self._pinned

    def _serve(self, version: str) -> None:
        """New requests are answered by this release when it returns.

        Raises: GatefoldError with the deployments' own words, or Unavailable, where it does not start; what served
        before goes on.
        """
        running = {**self._running, version: self._running.get(version) or self._described(version)}
        try:
            self._apply(self._serving or version, running)
            for application in (_PREFIX + version, self._api["name"]):
                _wait_until_running(application)
            self._apply(version, running)
            self._wait_until_current(version)
        except GatefoldError:
            if self._serving is not None:
                self._apply(self._serving, self._running)
            raise
        self._serving, self._running = version, running

    def _stop_unused(self, wanted: str) -> None:
        if len(self._running) < 2:
            return
        in_use = self._in_use()
        needed = {version: known for version, known in self._running.items() if version in (*in_use, wanted)}
        if in_use[:1] == [self._serving] and needed != self._running:
            self._running = needed
            self._apply(in_use[0], needed)

    def _described(self, version: str) -> Application:
        """The application of a release, with as many replicas to begin with as the one that serves has now."""
        application: Application = copy.deepcopy(self._template)
        application["name"] = _PREFIX + version
        application["args"]["release"] = version
        now = serve.status().applications.get(f"{_PREFIX}{self._serving}")
        for deployment in application["deployments"]:
            state = now.deployments.get(deployment["name"]) if now else None
            if state is not None and (scaling := deployment.get("autoscaling_config")):
                count = max(state.replica_states.get("RUNNING", 0), scaling.get("min_replicas", 1))
                scaling["initial_replicas"] = min(count, scaling.get("max_replicas", 1))
        return application

    def _apply(self, current: str, running: dict[str, Application]) -> None:
        """Makes Serve run the API and these releases, and no other; changing the active release restarts nothing."""
        api = copy.deepcopy(self._api)
        for deployment in api["deployments"]:
            if deployment["name"] in FOLLOWING:
                deployment.setdefault("user_config", {})["release"] = _PREFIX + current
        config = {**self._config, "applications": [api, *running.values()]}
        deploy_applications(ServeDeploySchema.model_validate(config))

    def _in_use(self) -> list[str]:
        """The active release, then those that still have work to finish, as all replicas of the API and of what runs
        its jobs answer; empty where one does not answer at present, or they do not agree yet on the active one."""
        answers: list[list[str]] = []
        try:
            for name in FOLLOWING:
                handle = serve.get_deployment_handle(name, self._api["name"])  # which Serve ends with itself
                initialise(handle)
                found = handle.broadcast("in_use").results(timeout_s=ANSWER_WITHIN_S)
                answers += found or [[]]
        except _RAY_ERRORS as error:
            logger.info("the API does not say which release is in use: %s", error)
            return []
        return agreed(answers)

    def _wait_until_current(self, version: str) -> None:
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while self._in_use()[:1] != [version]:
            if time.monotonic() > deadline:
                raise Unavailable(f"the API did not go over to it within {ANSWER_WITHIN_S:.0f} s; see its logs")
            time.sleep(_POLL_S)


def agreed(answers: list[list[str]]) -> list[str]:
    """What several replicas have in use together, the active release first; nothing where they do not agree on it.

    Args:
        answers: of each replica, its active release first; empty where it has none.
    """
    active = {versions[0] if versions else None for versions in answers}
    if len(active) != 1 or None in active:
        return []
    (first,) = active
    return [str(first), *sorted({version for versions in answers for version in versions[1:]} - active)]


def reason(messages: list[str]) -> str:
    """What Serve's messages boil down to: the error at the end of each remote traceback, without the traceback."""
    lasts = [message.strip().splitlines()[-1].strip() for message in messages if message.strip()]
    return "; ".join(dict.fromkeys(lasts)) or "Serve gives no reason; see its logs"


def _running_releases() -> dict[str, Application]:
    """The releases that run in this Ray already, by version, as they were described."""
    return {
        name.removeprefix(_PREFIX): application["deployed_app_config"]
        for name, application in described_applications().items()
        if name.startswith(_PREFIX) and application["status"] == ApplicationStatus.RUNNING
    }


def _wait_until_running(name: str) -> None:
    """Raises: Unavailable with the application's and its deployments' messages."""
    deadline = time.monotonic() + START_WITHIN_S
    said = ""
    while True:
        application = serve.status().applications.get(name)
        if application is not None:
            if application.status == ApplicationStatus.RUNNING:
                return
            waiting = [f"{key}: {d.message}" for key, d in application.deployments.items() if d.message]
            message = "; ".join([application.message, *waiting] if application.message else waiting)
            if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
                logger.debug("%s did not start: %s", name, message)
                raise GatefoldError(f"it did not start: {reason(waiting or [application.message])}")
            if message != said:
                logger.info("%s: %s", application.status.value.lower(), message)
                said = message
        if time.monotonic() > deadline:
            raise Unavailable(f"it did not start within {START_WITHIN_S:.0f} s: {said or 'no word from it'}")
        time.sleep(_POLL_S)
