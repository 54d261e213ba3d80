"""The pages of the API's description, in a browser that reaches nothing but the endpoint."""

import re

import pytest
from fastapi import APIRouter
from playwright.sync_api import expect

from gatefold.config import ServeSettings
from serve.api.description import DescribedApi
from serve.api.page import install_page
from serve.middleware.security_headers import SecurityHeadersMiddleware
from tests.browser.conftest import FakeServer, Visit

pytestmark = pytest.mark.browser


def test_the_description_is_drawn_and_loads_nothing_from_elsewhere(visit: Visit) -> None:
    app = DescribedApi(ServeSettings(), lambda: False, title="gatefold", docs_url=None, redoc_url=None)
    router = APIRouter(prefix="/v1", tags=["songs"])

    @router.get("/limits")
    async def limits() -> None:
        """What a request may ask for at most."""

    app.include_router(router)
    install_page(app)
    app.add_middleware(SecurityHeadersMiddleware)
    asked: list[str] = []
    visit.page.on("request", lambda request: asked.append(request.url))
    with FakeServer(app=app) as server:
        visit.page.goto(f"{server.url}/docs")
        expect(visit.page.locator(".opblock-summary-path")).to_have_text(re.compile("/v1/limits"))
        visit.page.locator(".opblock-summary").click()
        expect(visit.page.get_by_role("button", name="Try it out")).to_be_visible()
        elsewhere = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert elsewhere == []
    assert visit.complaints == []
